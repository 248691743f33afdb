"""Prefix fine-tuning: a sentence pair becomes pairs of prefixes, one for every WRITE of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simulmask_plugin.layouts.base import Example, Flags, Layout, RunOptions, SequenceLayout
from simulmask_plugin.layouts.conventions import Convention
from simulmask_plugin.layouts.positions import Contiguous
from simulmask_plugin.layouts.prefix import Prefix, PrefixRun, session_of
from simulmask_plugin.policies import ReadSchedule

if TYPE_CHECKING:
    from simulmask_plugin.config.block import SimulMaskConfig as Block


@dataclass(frozen=True, kw_only=True)
class PrefixPairs(Layout):
    """The layout ``prefix`` with ``prefix_pairs: true``, see `split`.

    In a pair g is constant: the token after a WRITE takes the place of its look-ahead row.
    """

    name = "prefix"
    splits = True
    run_options = PrefixRun

    positions: Literal["contiguous", "modified_alibi", "group"] = "group"
    prefix_pairs: bool = True

    @property
    def scheme(self) -> Contiguous:
        """Of the positions."""
        return Contiguous()

    @classmethod
    def described(cls) -> str:
        """By the key that makes it."""
        return "with prefix_pairs: true"

    def check(self, block: Block) -> None:
        """Refuse other positions, and policies that are drawn: the pairs are made once, before the training."""
        super().check(block)
        if self.positions != "contiguous":
            raise ValueError(
                f"simulmask.positions: {self.positions} does not go with prefix_pairs: true, whose examples are plain "
                "causal text; set positions: contiguous or remove prefix_pairs."
            )
        if block.policy.draws:
            raise ValueError(
                f"simulmask.policy: {block.policy.name} does not go with prefix_pairs: true, whose pairs are made "
                "once, before the training; set policy: wait_k."
            )
        for key, value in block.keys().items():
            if not isinstance(value, tuple):
                continue
            raise ValueError(
                f"simulmask.{key}: the list {', '.join(map(str, value))} does not go with prefix_pairs: true, whose "
                f"pairs are made once, before the training; set one {key}."
            )

    def split(self, example: Example, schedule: ReadSchedule) -> Iterator[tuple[Example, ReadSchedule]]:
        """Yield what the WRITEs see and write, each as plain causal text with its schedule; the longest comes last.

        Target units with the same g(t) form one WRITE. Its text is prompt | the first g(t) source units | header | the
        target up to its last unit | the token after that, which teaches where the unit ends. Only its own units and
        this token carry labels, so that together the pairs label every target unit once. Where g(T + 1) > g(T), the end
        of sentence is a WRITE of its own.

        wait-1, two source units x1 x2, target units ya yb (two tokens, one unit) and z::

            token   P  x1  H  ya yb z             P  x1  x2  H  ya yb  z  E
            labels  .   .  .  ya yb z             .   .   .  .   .  .  z  E
        """
        ids, num_target = example.input_ids, len(example.target_lengths)
        source_ends = np.cumsum([example.num_prompt, *example.source_lengths])
        target_ends = np.cumsum([example.source_end + example.num_header, *example.target_lengths])
        num_written = 0
        for num_read, units in groupby(schedule.num_read):
            end = min(num_written + len(list(units)), num_target)  # the end of sentence is no unit
            pair = replace(
                example,
                input_ids=np.concatenate(
                    [ids[: source_ends[num_read]], ids[example.source_end : target_ends[end] + 1]]
                ),
                source_lengths=example.source_lengths[:num_read],
                target_lengths=example.target_lengths[:end],
                num_written=num_written,
            )
            yield pair, ReadSchedule((num_read,) * (end + 1), num_read)
            num_written = end

    def lay_out(
        self, example: Example, schedule: ReadSchedule, convention: Convention, look_ahead: Flags | None = None
    ) -> SequenceLayout:
        """Lay a pair out as plain causal text."""
        return Prefix(positions="contiguous").lay_out(example, schedule, convention)

    def title(self) -> list[str]:
        """A name for the rows."""
        return ["prefix pairs", f"positions {self.positions}"]

    def session(self, run: RunOptions) -> Callable[..., Any]:
        """As `Prefix` has it."""
        return session_of(run)

    def parity_run(self) -> RunOptions:
        """The session that recomputes."""
        return PrefixRun(recompute=True)

    def describe(self, convention: Convention) -> dict[str, str]:
        """The rows are those of the pairs."""
        rows = "prefix pairs: every WRITE is plain causal text of its own"
        return {**super().describe(convention), "rows": rows}
