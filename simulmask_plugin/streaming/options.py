"""The streaming session of a model, by the layout that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from simulmask_plugin.attention.families import check_attention, family_of
from simulmask_plugin.attention.rope import check_rope
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.config.block import CHUNKED, MODEL_DRIVEN, check_threshold
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.options import MOST_AT_ONCE, MOST_UNITS, check_integer
from simulmask_plugin.policies import POLICIES, Policy
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.document import Document
from simulmask_plugin.streaming.recompute_session import RecomputeSession
from simulmask_plugin.streaming.self_test import check_takes_mask
from simulmask_plugin.streaming.slots_session import SESSIONS
from simulmask_plugin.streaming.unit_session import StreamingSession
from simulmask_plugin.text.prompts import LATENCIES, OFFLINE_LATENCY

Session = StreamingSession | ChunkedSession

PARTS = (
    rf"(?P<policy>(?!(?:{'|'.join(LATENCIES)})(?:-|$))[a-z]\w*)(?:-(?P<numbers>\d+(?:-\d+)*)(?=-|$))?",
    rf"(?P<latency>{'|'.join((*LATENCIES, OFFLINE_LATENCY))})",
    r"(?P<read_threshold>\d+\.\d+|\d+(?:\.\d+)?e-\d+)",
    r"beam(?P<beam_width>\d+)",
    r"(?P<recompute>recompute)",
    r"slot(?P<slot_length>\d+)",
)
RUN_NAME = re.compile("".join(rf"(?:(?:^|(?<=.)-){part}(?=-|$))?" for part in PARTS))
"""The parts of `Decision.name`, each of which may be missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What decides on READ and WRITE in a streaming session; None: as the model was trained.

    Attributes:
        policy: wait_k, read_n, offline; model_driven for the layout interleaved.
        k: wait_k: source units.
        n: read_n: source units.
        latency: interleaved: for the prompt; None: the only one that was trained, else medium.
        read_threshold: interleaved: WRITE when P(end of read) reaches it.
        beam_width: layouts of chunks: hypotheses of the search inside a WRITE.
        recompute: prefix with positions contiguous: compute the target anew whenever source has arrived (baseline).
        slot_length: slots: positions of a slot, in place of those of training (for a study; ExPosST wants the same).
    """

    policy: str | None = None
    k: int | None = None
    n: int | None = None
    latency: str | None = None
    read_threshold: float | None = None
    beam_width: int | None = None
    recompute: bool = False
    slot_length: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """Check the keys.

        Raises:
            ValueError: on a key that does not exist (the known ones are listed).
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key {key!r}; a policy may have {', '.join(known)}.")
        return cls(**values)

    @property
    def name(self) -> str:
        """Name in tables and folders, e.g. wait_k-3, low-0.3 or wait_k-3-slot8."""
        beam = None if self.beam_width is None else f"beam{self.beam_width}"
        slot = None if self.slot_length is None else f"slot{self.slot_length}"
        recompute = "recompute" if self.recompute else None
        policy = self.policy if self.policy != MODEL_DRIVEN else None
        parts = (policy, self.k, self.n, self.latency, self.read_threshold, beam, recompute, slot)
        return "-".join(str(part) for part in parts if part is not None) or MODEL_DRIVEN

    @classmethod
    def from_name(cls, name: str) -> Decision:
        """Return the decision that has this name.

        Raises:
            ValueError: if none has.
        """
        match = RUN_NAME.fullmatch(name)
        found = {key: value for key, value in match.groupdict().items() if value} if match else {}
        parameters = [
            key
            for key in ("k", "n")
            if found.get("policy") in POLICIES and key in POLICIES[found["policy"]].parameters()
        ]
        numbers = re.findall(r"\d+", found.get("numbers", ""))
        if not found or len(numbers) not in (0, len(parameters)):
            raise ValueError(f"{name!r} is no name of a run such as wait_k-3, low-0.3 or wait_k-3-slot8.")
        values: dict[str, Any] = {key: found[key] for key in ("policy", "latency") if key in found}
        values |= {key: int(found[key]) for key in ("beam_width", "slot_length") if key in found}
        values |= dict(zip(parameters, map(int, numbers), strict=False))
        if "read_threshold" in found:
            values["read_threshold"] = float(found["read_threshold"])
        return cls(**values, recompute="recompute" in found)

    def check(self, settings: ModelSettings) -> Policy | None:
        """Return the policy to stream with; None: the model decides.

        Raises:
            ValueError: if the model cannot be streamed like this.
        """
        layout = settings.config.layout
        own = {"beam_width": layout in CHUNKED, "latency": layout == "interleaved"}
        own["read_threshold"] = own["latency"]
        own["slot_length"] = layout == "slots"
        for key, has_meaning in own.items():
            if getattr(self, key) is not None and not has_meaning:
                raise ValueError(f"{key} has no meaning for a model of layout: {layout}; remove it.")
        if layout == "interleaved":
            settings.trained_on.latency(self.latency)
        if self.read_threshold is not None:
            check_threshold("read_threshold", self.read_threshold)
        if self.beam_width is not None:
            check_integer("beam_width", self.beam_width, least=1, most=MOST_AT_ONCE)
        self._check_recompute(settings)
        settings = self.streamed_with(settings)
        if layout == "interleaved" and self.policy in (None, MODEL_DRIVEN) and self.k is None and self.n is None:
            return None
        return settings.inference_policy(self.policy, self.k, self.n)

    def streamed_with(self, settings: ModelSettings) -> ModelSettings:
        """The settings to stream with: those of training, but for a slot_length of the decision's own.

        Raises:
            ValueError: if the slot_length is no integer of at least 1.
        """
        if self.slot_length is None:
            return settings
        return replace(settings, config=replace(settings.config, slot_length=self.slot_length))

    def _check_recompute(self, settings: ModelSettings) -> None:
        if not isinstance(self.recompute, bool):
            raise ValueError(f"recompute must be true or false, got {self.recompute!r}.")
        if not self.recompute:
            return
        for key, expected in (("layout", "prefix"), ("positions", "contiguous")):
            trained = getattr(settings.config, key)
            if trained != expected:
                raise ValueError(
                    f"recompute streams plain causal text and needs a model of {key}: {expected}, but this one was "
                    f"trained with {key}: {trained}; remove recompute, or take a model that was."
                )


def document_of(settings: ModelSettings, units: int | None, context_sentences: int) -> Document | None:
    """Return how a line is streamed as a document; None: a line is a sentence.

    Args:
        settings: of the model.
        units: `Document.min_units`; None: a line is a sentence.
        context_sentences: `Document.context_sentences`.

    Raises:
        ValueError: naming what is no number, lacks its partner, or what the model's layout cannot do.
    """
    check_integer("context_sentences", context_sentences, least=0, most=MOST_UNITS)
    if units is None:
        if context_sentences:
            raise ValueError(
                f"context_sentences is {context_sentences}, but without document_units every line is one sentence; "
                "set document_units, or remove context_sentences."
            )
        return None
    check_integer("document_units", units, least=1, most=MOST_UNITS)
    if settings.config.layout not in CHUNKED:
        raise ValueError(
            f"document_units needs a model of layout: {' or '.join(CHUNKED)}, but this one was trained with layout: "
            f"{settings.config.layout}; remove document_units."
        )
    return Document(units, context_sentences)


def streaming_attention(model: str, given: str | None) -> str:
    """Return the attention to stream a model with: the given one, else that of training.

    transformers would take sdpa for Gemma 2, too, and leave its soft-capping out.

    Raises:
        ValueError: if the model's family is not supported, does not take our mask with the given one, or rotates
            positions by the length of the text.
    """
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    check_rope(config)
    attention = given or family_of(config).attention
    check_attention(config, attention)
    check_takes_mask(config, attention)
    return attention


def open_session(
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    decision: Decision,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    document: Document | None = None,
    max_target_tokens: int = 512,
) -> Session:
    """Return the session of one sentence (or document) for a model in evaluation mode.

    Raises:
        ValueError: if the model cannot be streamed like this, was never trained on the language pair, or on several
            and it is not said which.
    """
    policy = decision.check(encoder.settings)
    layout = encoder.settings.config.layout
    if layout not in CHUNKED:
        if document is not None:
            raise ValueError(f"A document needs a model of layout: interleaved or turns, not {layout}.")
        assert policy is not None
        encoder = encoder.with_settings(decision.streamed_with(encoder.settings))
        session_of = RecomputeSession if decision.recompute else SESSIONS[layout]
        return session_of(
            model=model,
            encoder=encoder,
            policy=policy,
            source_lang=source_lang,
            target_lang=target_lang,
            max_target_tokens=max_target_tokens,
        )
    return ChunkedSession(
        model=model,
        encoder=encoder,
        policy=policy,
        source_lang=source_lang,
        target_lang=target_lang,
        latency=encoder.settings.trained_on.latency(decision.latency),
        read_threshold=decision.read_threshold,
        beam_width=1 if decision.beam_width is None else decision.beam_width,
        document=document,
        max_target_tokens=max_target_tokens,
    )
