"""What a client may choose for its session, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from simulmask_plugin.config.calibration import threshold_of
from simulmask_plugin.options import Must, check_choice, check_known
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.options import Decision, Opener, parameters, session_opener
from simulmask_plugin.streaming.translator import Translator

CHOICES = ("policy", *parameters(), "laal")
"""Keys of an entry of an evaluation's ``policies`` that a client may set; the others are the server's to choose."""

REMEMBERED = 64
"""Decisions for which what opens their sessions is kept."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants of a session; None: as the server has it."""

    decision: Mapping[str, Any] | None = None
    """Keys of `CHOICES`."""
    source_lang: str | None = None
    """Of a model that was trained on several language pairs."""
    target_lang: str | None = None
    """The same for the target."""
    session: Annotated[str, Must("have 1 to 64 characters", lambda name: 1 <= len(name) <= 64)] | None = None
    """What it calls the session."""


class Granted(NamedTuple):
    """What a wish comes to: in full, and what opens the session."""

    decision: dict[str, Any]
    opener: Opener


class Wishes:
    """Grants wishes.

    Args:
        translator: the model.
        default: of a client that wants nothing; what it says beside `CHOICES` holds for all.
        max_target_tokens: after which a session ends.
    """

    def __init__(self, translator: Translator, default: Decision, max_target_tokens: int) -> None:
        self._translator, self._default, self._max_target_tokens = translator, default, max_target_tokens
        self._for_all = {key: value for key, value in default.values if key not in CHOICES}
        self._opener = lru_cache(REMEMBERED)(self._new_opener)

    def grant(self, wish: Wish) -> Granted:
        """Return what opens the session.

        Raises:
            ValueError: if the model cannot be streamed like this.
        """
        settings = self._translator.encoder.settings.for_pair(wish.source_lang, wish.target_lang)
        decision = self._default
        if wish.decision is not None:
            check_known(wish.decision, CHOICES, "decision")
            if (policy_name := wish.decision.get("policy")) is not None:
                check_choice("policy", policy_name, POLICIES)
            decision = Decision.from_dict({**self._for_all, **wish.decision})
        policy, run = decision.resolve(settings)
        values = {"policy": policy.name, **policy.values()}
        if run.laal is not None:
            values[threshold_of(policy).key] = None
            values["laal"] = run.laal
        opener = self._opener(decision, *settings.pair())
        return Granted({key: value for key, value in values.items() if value is not None}, opener)

    def _new_opener(self, decision: Decision, source_lang: str, target_lang: str) -> Opener:
        return session_opener(
            self._translator.model,
            self._translator.encoder,
            decision,
            source_lang=source_lang,
            target_lang=target_lang,
            max_target_tokens=self._max_target_tokens,
            aids=self._translator.aids,
        )
