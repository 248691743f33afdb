"""What the prompts of the training data named, and streaming may therefore name: language pairs and latencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from simulmask_plugin.options import Must
from simulmask_plugin.text.prompts import DEFAULT_LATENCY, PROMPTED, check_latency

Language = Annotated[str, Must("be the name of a language", bool)]
Latency = Annotated[str, Must(f"be one of {', '.join(PROMPTED)}", lambda latency: latency in PROMPTED)]

LanguagePair = tuple[Language, Language]
"""Source language and target language, as the prompt shows them."""

Languages = tuple[str | None, str | None]
"""The same as far as somebody has said it."""


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What the prompts of a model's training data named; empty where nobody wrote it down, as earlier versions did."""

    language_pairs: tuple[LanguagePair, ...] = ()
    """Sorted; streaming takes a single one by default."""
    latencies: tuple[Latency, ...] = ()
    """interleaved: from low to high, then offline."""

    def pair(self, source_lang: str | None, target_lang: str | None, default: LanguagePair) -> LanguagePair:
        """Return the language pair that is meant; None: whichever was trained, or where nobody knows, the default.

        Raises:
            ValueError: if it was never trained, or several pairs were and it could be more than one of these.
        """
        if not self.language_pairs:
            return source_lang or default[0], target_lang or default[1]
        possible = [
            pair
            for pair in self.language_pairs
            if source_lang in (None, "", pair[0]) and target_lang in (None, "", pair[1])
        ]
        if len(possible) == 1:
            return possible[0]
        if not possible:
            raise ValueError(
                f"The model was never trained to translate from {source_lang or 'any language'} to "
                f"{target_lang or 'any language'}; it was trained on {self.described()}. Give source_lang and "
                "target_lang as they are written there."
            )
        raise ValueError(
            f"The model was trained on several language pairs: {self.described()}. Say which one with source_lang and "
            "target_lang (--source-lang, --target-lang)."
        )

    def latency(self, latency: str | None) -> str:
        """Return the latency for the prompt; None: the only one that was trained, else medium.

        One between two others ("low-medium") names no data, in EAST neither: it may be asked for where
        both of its neighbours were trained.

        Raises:
            ValueError: if it is unknown or was never trained, or nothing is said and several were trained, but not
                medium.
        """
        if latency is not None:
            check_latency(latency)
        if not self.latencies:
            return latency or DEFAULT_LATENCY
        if latency is None:
            if len(self.latencies) == 1:
                return self.latencies[0]
            latency = DEFAULT_LATENCY
        if latency in self.latencies or _neighbours(latency) <= set(self.latencies):
            return latency
        raise ValueError(
            f"The model was never trained at the latency {latency!r}, only at {', '.join(self.latencies)} "
            "(simulmask.json); choose one of these with latency."
        )

    def described(self) -> str:
        """The language pairs in words."""
        return ", ".join(f"{source_lang} to {target_lang}" for source_lang, target_lang in self.language_pairs)


def _neighbours(latency: str) -> set[str]:
    """The two latencies around one between them; of every other, itself."""
    return set(latency.split("-"))
