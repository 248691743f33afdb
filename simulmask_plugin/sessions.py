"""The session of every layout."""

from __future__ import annotations

from transformers import PreTrainedModel

from simulmask_plugin.features import ExampleEncoder
from simulmask_plugin.policies import Policy
from simulmask_plugin.slots_session import SlotsSession
from simulmask_plugin.streaming import Choose, StreamingSession, Trace

SESSIONS: dict[str, type[StreamingSession]] = {"prefix": StreamingSession, "slots": SlotsSession}


def open_session(
    *,
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    policy: Policy,
    source_lang: str | None = None,
    target_lang: str | None = None,
    max_target_tokens: int = 512,
    max_unit_tokens: int = 48,
    choose: Choose | None = None,
    trace: Trace | None = None,
) -> StreamingSession:
    """Return a new session, for one sentence, of the layout that the model was trained with.

    The arguments are those of :class:`~simulmask_plugin.streaming.StreamingSession`.
    """
    return SESSIONS[encoder.settings.config.layout](
        model=model,
        encoder=encoder,
        policy=policy,
        source_lang=source_lang,
        target_lang=target_lang,
        max_target_tokens=max_target_tokens,
        max_unit_tokens=max_unit_tokens,
        choose=choose,
        trace=trace,
    )
