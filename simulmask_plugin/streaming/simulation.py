"""What SimulEval does with one sentence, without its process: the engine of evaluations and trainings share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulmask_plugin.streaming.lane import Steps
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.writer import COUNTED_IN, Writer
from simulmask_plugin.text.units import CHARACTER

Record = dict[str, Any]
"""One line of SimulEval's instances.log, as far as text has it."""


def laal(record: Record, latency_unit: str) -> float:
    """Length-adaptive average lagging of a sentence, in source words, as SimulEval has it; something must be written.

    Source: Papi et al., 2022, https://arxiv.org/abs/2206.05807.
    """
    delays, num_source, reference = record["delays"], record["source_length"], record["reference"]
    in_characters = COUNTED_IN[latency_unit] == CHARACTER
    num_reference = len(reference.strip()) if in_characters else len(reference.split(" "))
    return lagging(delays, num_source, num_reference)


def lagging(delays: Sequence[int], num_source: int, num_reference: int) -> float:
    """The same of the delays of target units, at least one, in source units."""
    rate = max(len(delays), num_reference) / num_source
    num_lagging = next((i for i, delay in enumerate(delays, 1) if delay >= num_source), len(delays))
    return sum(delay - i / rate for i, delay in enumerate(delays[:num_lagging])) / num_lagging


def simulate(
    session: Session, source: Sequence[str], reference: str, latency_unit: str
) -> Steps[tuple[Session, Record]]:
    """Send a word, take all that is written, until the sentence ends; yield what the session wants fed.

    Args:
        session: of the sentence, with nothing read.
        source: its words.
        reference: its translation, for the record.
        latency_unit: word, char or spm, as SimulEval has it.

    Returns:
        the session, and a line of SimulEval's instances.log without its index; a delay counts the words that had
        been sent.
    """
    writer, num_sent = Writer(session, latency_unit), 0
    written: list[str] = []
    delays: list[int] = []
    in_characters = COUNTED_IN[latency_unit] == CHARACTER
    while not session.finished:
        if num_sent < len(source):
            session.read(source[num_sent])
            num_sent += 1
        if num_sent == len(source) and not session.source_finished:
            session.finish_source()
        text = yield from writer.write()
        new = list((text or "").replace(" ", "")) if in_characters else (text or "").split()
        written += new
        delays += [num_sent] * len(new)
    return session, {
        "prediction": ("" if in_characters else " ").join(written),
        "delays": delays,
        "elapsed": [0] * len(written),
        "prediction_length": len(written),
        "reference": reference,
        "source": " ".join(source),
        "source_length": len(source),
    }
