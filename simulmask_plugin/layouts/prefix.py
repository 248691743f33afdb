"""The layout ``prefix`` (SimulMask, https://arxiv.org/abs/2405.10443): the text as it is, with unread source hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from simulmask_plugin.layouts.base import Example, Flags, Layout, RunOptions, SequenceLayout
from simulmask_plugin.layouts.conventions import Convention
from simulmask_plugin.layouts.positions import Scheme, scheme_of
from simulmask_plugin.layouts.rows import UnitLayout, lay_out_rows
from simulmask_plugin.options import MOST_TOKENS, between
from simulmask_plugin.policies import ReadSchedule

TARGET_ORDER = 2**30
"""Place in the training sequence of the first header row while streaming; no source is longer."""


@dataclass(frozen=True, kw_only=True)
class PrefixRun(RunOptions):
    """Plain causal text may be streamed without a kept cache, as a baseline."""

    recompute: bool = False
    """prefix with positions contiguous: compute the target anew whenever source has arrived (baseline)."""


def session_of(run: RunOptions) -> Callable[..., Any]:
    """The session of a run."""
    from simulmask_plugin.streaming.recompute_session import RecomputeSession
    from simulmask_plugin.streaming.unit_session import StreamingSession

    assert isinstance(run, PrefixRun)
    return RecomputeSession if run.recompute else StreamingSession


@dataclass(frozen=True, kw_only=True)
class TextLayout(UnitLayout):
    """The text as it is, with unread source hidden, and positions by a scheme."""

    run_options = PrefixRun

    @property
    def scheme(self) -> Scheme:
        """Where header and target are."""
        raise NotImplementedError

    def streamed_with(self, run: RunOptions) -> TextLayout:
        """The same.

        Raises:
            ValueError: if it is to be recomputed, and was not trained as plain causal text.
        """
        assert isinstance(run, PrefixRun)
        if run.recompute and self.positions != "contiguous":
            raise ValueError(
                "recompute streams plain causal text and needs a model of positions: contiguous, but this one was "
                f"trained with positions: {self.positions}; remove recompute, or take a model that was."
            )
        return self

    def lay_out(
        self, example: Example, schedule: ReadSchedule, convention: Convention, look_ahead: Flags | None = None
    ) -> SequenceLayout:
        """Lay an example out as prompt | source | header | target | end of sentence (SimulMask, section 4).

        wait-1, two source units x1 x2, target units ya yb (two tokens, one unit) and z, look_ahead::

            token        P  x1 x2  H  ya yb yb  z  E
            source_unit -1  0  1  -1  -1  2 -1 -1 -1    2 = S: a look-ahead row
            num_read     2  2  2   1   1  1  2  2  2
            labels       .  .  .   .  ya yb  z  z  E
        """
        text = np.arange(len(example.input_ids))
        layout = lay_out_rows(
            example, schedule, convention, look_ahead, token=text, position=text, opening=np.zeros(1, dtype=int)
        )
        visible = np.concatenate(([0], np.cumsum(example.source_lengths)))
        start, num_hidden = self.scheme.behind_source(int(visible[-1]), visible[layout.num_read])
        behind = layout.position - example.source_end + example.num_prompt + start
        position = np.where(layout.after_source, behind, layout.position)
        return replace(layout, position=position, num_hidden=num_hidden)

    def session(self, run: RunOptions) -> Callable[..., Any]:
        """A session that keeps its cache, or the baseline that does not."""
        return session_of(run)

    def shows_fewer(self, run: RunOptions) -> bool:
        """Not where the target is fed again after every READ."""
        assert isinstance(run, PrefixRun)
        return not run.recompute

    def orders(self, layout: SequenceLayout) -> list[int]:
        """Places in the text; from the header on twice those, with a place for a look-ahead row before a kept row."""
        start = layout.example.source_end
        return [
            token if token < start else TARGET_ORDER + 2 * (token - start) + kept
            for token, kept in zip(layout.token.tolist(), layout.is_kept.tolist(), strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Prefix(TextLayout):
    """The layout ``prefix``."""

    name = "prefix"
    meant_for = {**UnitLayout.meant_for, "group_offset": {"positions": ("group",)}}

    positions: Literal["contiguous", "modified_alibi", "group"] = "group"
    """contiguous, modified_alibi (ALiBi families), or group (source and target count separately)."""
    group_offset: Annotated[int, between(0, MOST_TOKENS)] = 0
    """group: position of the first header token, counted from the end of the prompt."""
    prefix_pairs: bool = False
    """Prefix fine-tuning: every WRITE of a sentence pair becomes an example of its own, plain causal text (baseline);
    needs layout: prefix, positions: contiguous and a policy that draws nothing."""

    @classmethod
    def variant(cls, block: Mapping[str, Any]) -> type[Layout]:
        """Prefix pairs are a layout of their own."""
        from simulmask_plugin.layouts.pairs import PrefixPairs

        return PrefixPairs if block.get("prefix_pairs") is True else cls

    @property
    def scheme(self) -> Scheme:
        """As the keys have it."""
        return scheme_of(self.positions, group_offset=self.group_offset)

    def describe(self, convention: Convention) -> dict[str, str]:
        """With the offset of the target."""
        offset = f", target {self.group_offset} positions further on" if self.group_offset else ""
        return {**super().describe(convention), "positions": self.positions + offset}
