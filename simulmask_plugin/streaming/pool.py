"""Many sessions at once: their requests are padded into one call, and a lane that is done takes the next sentence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.attention.mask import PADDING, Keys, Queries, attention_bias, mask_argument
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import FedRow, Lane, LiveSteps, Request, T
from simulmask_plugin.streaming.pooled_cache import Call, Entries, PooledCache

LOG = logging.getLogger(__name__)

Job = Callable[[Lane], LiveSteps[T]]
"""Opens a session on a lane and drives it; see `Pool.run`."""

SHORT = 4
"""Rows of a request that one target token takes at most, or a word of source; those of a prompt wait for each other."""
LONG = 0
"""The kind of all others, as `_together` counts."""

PATIENCE = 8
"""Calls for others after which a request is fed in the next one, whatever else could be padded better."""

QUERIED = [FedRow._fields.index(name) for name in ("token_id", "order", "num_read", "num_hidden", "position")]
"""Of a row, what a call needs."""


@dataclass(slots=True, eq=False)
class _Running(Generic[T]):
    """A sentence on its lane; it asks for nothing while its source has to arrive, and before it has begun."""

    number: int
    lane: Lane
    steps: LiveSteps[T]
    request: Request | None = None
    num_passed_over: int = 0  # calls since it has asked

    @property
    def asked(self) -> Request:
        """The request of one that asks."""
        assert self.request is not None
        return self.request


@dataclass(slots=True)
class Pool:
    """Runs sessions side by side on one model.

    Either all at once (`run`), or as they come, with `start`, `step` and `stop`.

    Args:
        model: a causal language model in evaluation mode.
        num_lanes: sessions at once; memory grows with it.
        max_keys: of a session; one that needs more fails. None: memory grows with the longest.
    """

    model: PreTrainedModel
    num_lanes: int = 64
    max_keys: int | None = None
    _cache: PooledCache = field(init=False)
    _accepts_position_ids: bool = field(init=False)
    _free: list[int] = field(init=False)
    _running: list[_Running[Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Make the model ready for our masks."""
        self._accepts_position_ids = Feeder(self.model)._accepts_position_ids
        self._cache = PooledCache(self.model.config.get_text_config().num_hidden_layers, self.num_lanes)
        self._free = list(reversed(range(self.num_lanes)))

    @property
    def cache_bytes(self) -> int:
        """What the keys and values of all lanes take; they never shrink."""
        filled = [layer for layer in self._cache.layers if layer.is_initialized]
        return sum(states.nbytes for layer in filled for states in (layer.keys, layer.values))

    @property
    def has_room(self) -> bool:
        """Whether a lane is free."""
        return bool(self._free)

    @property
    def asks(self) -> bool:
        """Whether a session wants something fed; if not, and nothing more arrives, `step` does nothing."""
        return any(one.request is not None for one in self._running)

    def run(self, jobs: Iterable[Job[T]]) -> Iterator[tuple[int, T]]:
        """Run all jobs; yield the number of each, from 0, with its result, as they end."""
        left = enumerate(jobs)
        while True:
            while self._free and (job := next(left, None)) is not None:
                self.start(*job)
            if not self._running:
                return
            yield from self.step()

    def start(self, number: int, job: Job[Any]) -> None:
        """Put a job on a free lane; it begins with the next step."""
        lane = Lane(Entries(self._cache, self._free.pop()))
        self._running.append(_Running(number, lane, job(lane)))

    def stop(self, number: int) -> None:
        """End a job, if it still runs, where it is."""
        for one in [one for one in self._running if one.number == number]:
            one.steps.close()
            self._leave(one)

    def step(self) -> list[tuple[int, Any]]:
        """Let those that ask for nothing look for source, then make one call for those that ask.

        Returns:
            number and result of those that have ended.
        """
        ended: list[tuple[int, Any]] = []
        for one in [one for one in self._running if one.request is None]:
            ended += self._go_on(one, None)
        for one in [one for one in self._running if self._is_too_long(one)]:
            ended += self._go_on(
                one, ValueError(f"The sentence has more than {self.max_keys} tokens, both sides counted.")
            )
        asking = [one for one in self._running if one.request is not None]
        if asking:
            batch = _together(asking, self.num_lanes, apart=self.model.device.type == "cpu")  # a GPU has rows to spare
            start = time.perf_counter()
            answers = self._answers(batch)
            share = (time.perf_counter() - start) / len(batch)
            for one, answer in zip(batch, answers, strict=True):
                one.lane.seconds += share
                ended += self._go_on(one, answer)
        return ended

    def _is_too_long(self, one: _Running[Any]) -> bool:
        num_rows = 0 if one.request is None else len(one.request.rows)
        return self.max_keys is not None and one.lane.num_keys + num_rows > self.max_keys

    def _go_on(self, one: _Running[T], answer: Any) -> list[tuple[int, T]]:
        """Tell a session the logits that it has asked for, or why there are none; return it if it has ended."""
        try:
            one.request = one.steps.throw(answer) if isinstance(answer, Exception) else one.steps.send(answer)
        except StopIteration as end:
            self._leave(one)
            return [(one.number, end.value)]
        return []

    def _leave(self, one: _Running[Any]) -> None:
        self._running.remove(one)
        self._free.append(one.lane.cache.index)

    def _answers(self, batch: Sequence[_Running[Any]]) -> list[Tensor | Exception]:
        """Feed a batch; if its call fails, feed each alone, so that only those fail that the model cannot take."""
        starts = [one.lane.num_keys for one in batch]
        try:
            fed = self._feed(batch)
            if self.model.device.type != "cpu":
                torch.accelerator.synchronize()  # or the time of the call would be that of starting it
            return [*fed]
        except Exception as error:  # each session gets it, and says what becomes of it
            for one, start in zip(batch, starts, strict=True):
                one.lane.crop(start)
            if len(batch) == 1:
                return [error]
            LOG.warning("A call for %d sentences failed (%s); each is fed alone.", len(batch), error)
        return [answer for one in batch for answer in self._answers([one])]

    @torch.inference_mode()
    def _feed(self, batch: Sequence[_Running[Any]]) -> list[Tensor]:
        """Feed one request of every session; rows are padded on the left, by their first one."""
        device, num_rows = self.model.device, max(len(one.asked.rows) for one in batch)
        starts = [one.lane.num_keys for one in batch]
        num_keys = max(start + len(one.asked.rows) for start, one in zip(starts, batch, strict=True))
        queries = np.empty((5, len(batch), num_rows), dtype=np.int64)
        keys = np.zeros((len(Keys._fields), len(batch), num_keys), dtype=np.int64)
        keys[0], keys[1] = -1, PADDING  # what is not there is readable by no row
        places = np.full((len(batch), num_rows), num_keys)
        for i, (one, start) in enumerate(zip(batch, starts, strict=True)):
            one.lane.enter(one.asked)
            rows = one.asked.rows
            fields = np.array(rows, dtype=np.int64).T[QUERIED]
            queries[:, i, num_rows - len(rows) :] = fields
            queries[:, i, : num_rows - len(rows)] = fields[:, :1]
            keys[:, i, : start + len(rows)] = one.lane.keys[:, : start + len(rows)]
            places[i, num_rows - len(rows) :] = np.arange(start, start + len(rows))
            one.lane.cache.length = start + len(rows)
        lanes = torch.tensor([one.lane.cache.index for one in batch], device=device)
        self._cache.prepare(Call(lanes, torch.from_numpy(places).to(device), num_keys))
        ids, order, num_read, num_hidden, position = torch.from_numpy(queries).to(device)
        mask = attention_bias(
            self.model.config,
            self.model.dtype,
            Queries(order, num_read, num_hidden),
            Keys(*torch.from_numpy(keys).to(device)),
            _visible(batch, num_rows, num_keys, device),
        )
        inputs: dict[str, Any] = {"position_ids": position} if self._accepts_position_ids else {}
        if any(one.asked.heads for one in batch):
            inputs["output_attentions"] = True
        output = self.model(
            input_ids=ids,
            attention_mask=mask_argument(self.model.config, mask),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=max(one.asked.num_predicting for one in batch),
            **inputs,
        )
        for i, one in enumerate(batch):
            one.lane.look(one.asked, output.attentions, i)
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        return [logits[i, -one.asked.num_predicting :] for i, one in enumerate(batch)]


def _together(asking: Sequence[_Running[T]], num_lanes: int, *, apart: bool) -> list[_Running[T]]:
    """The sessions of the next call, by their lanes: short requests, or the long ones once there are many.

    ``apart``: of the short ones only those of one length, which is the most frequent, so that nothing is padded. A
    request that was passed over too often goes first, with those of its kind.
    """
    kinds: dict[int, list[_Running[T]]] = {LONG: []}
    for one in asking:
        length = len(one.asked.rows)
        kinds.setdefault(LONG if length > SHORT else length if apart else SHORT, []).append(one)
    long = kinds.pop(LONG)
    chosen = max(kinds.values(), key=len, default=long)
    if len(long) >= max(1, num_lanes // 8):
        chosen = long
    oldest = max(asking, key=lambda one: one.num_passed_over)
    if oldest.num_passed_over >= PATIENCE:
        chosen = next(kind for kind in (long, *kinds.values()) if oldest in kind)
    for one in asking:
        one.num_passed_over = 0 if one in chosen else one.num_passed_over + 1
    return sorted(chosen, key=lambda one: one.lane.cache.index)


def _visible(batch: Sequence[_Running[Any]], num_rows: int, num_keys: int, device: torch.device) -> Tensor | None:
    """(batch, 1, rows, keys): what a search hides from its own branches; None where nobody searches."""
    if all(one.asked.visible is None for one in batch):
        return None
    visible = torch.ones((len(batch), 1, num_rows, num_keys), dtype=torch.bool, device=device)
    for i, one in enumerate(batch):
        if (own := one.asked.visible) is not None:
            visible[i, :, num_rows - own.shape[-2] :, : own.shape[-1]] = own[0]
    return visible
