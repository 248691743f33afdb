"""The table and the report of a study, from runs that are written by hand."""

import base64
from html.parser import HTMLParser

import pandas
import pytest
from sacrebleu.metrics import BLEU

from simulmask_plugin.comparison import Comparison, Run, Training, make_table, p_values, write_comparison
from simulmask_plugin.scores import Score
from simulmask_plugin.sessions import Decision

REFERENCES = [f"the quick brown fox number {i} jumps over a lazy dog" for i in range(40)]
WORSE = [text.replace("brown fox", "dog") if i % 2 else text for i, text in enumerate(REFERENCES)]
TRAININGS = {"plain": Training(2, 100, 2_000_000), "masked": Training(1, 60, 1_500_000)}


def run_of(system, model, decision, predictions, bleu=0.0):
    zeros = dict.fromkeys(("chrf", "al", "laal", "ap", "dal", "seconds_per_sentence", "calls_per_token"), 1.5)
    score = Score(decision.name, 40, bleu=bleu, gflops_per_sentence=0.5, truncated=0, **zeros)
    return Run(system, model, decision, score, predictions, [REFERENCES])


@pytest.fixture
def comparison():
    wait = [Decision(policy="wait_k", k=k) for k in (3, 5)]
    runs = [
        run_of("offline", "plain", Decision(policy="offline"), REFERENCES, 100.0),
        run_of("recompute", "plain", Decision(policy="wait_k", k=3, recompute=True), WORSE, 80.0),
        run_of("masked", "masked", wait[0], REFERENCES, 100.0),
        run_of("masked", "masked", wait[1], WORSE, 80.0),
    ]
    blocks = {"plain": {"policy": "offline"}, "masked": {"policy": "wait_k", "instruction": "<b>"}}
    return lambda reference: Comparison(
        study="study.yaml",
        runs=runs,
        trainings=TRAININGS,
        plain="plain",
        reference=reference,
        bleu=BLEU(),
        blocks=blocks,
        evaluation={"source": "test.en"},
        versions={"torch": "2"},
    )


def test_runs_are_tested_against_the_run_with_the_same_policy(comparison):
    offline, recompute, same, other = p_values(comparison(("masked", None)))
    assert recompute < 0.01
    assert offline is same is other is None, "without a partner, or the reference itself"


def test_runs_are_tested_against_one_run(comparison):
    offline, recompute, same, other = p_values(comparison(("offline", "offline")))
    assert offline is None
    assert recompute < 0.01 and other < 0.01
    assert same == 1, "the same translations"


def test_costs_are_those_of_an_epoch_in_multiples_of_plain_fine_tuning(comparison):
    table = make_table(comparison(("masked", None)))
    assert list(table["system"]) == ["offline", "recompute", "masked", "masked"]
    assert list(table["policy"]) == ["offline", "wait_k-3-recompute", "wait_k-3", "wait_k-5"]
    assert list(table["time / epoch"]) == [1, 1, 1.2, 1.2]
    assert list(table["tokens / epoch"]) == [1, 1, 1.5, 1.5]
    assert list(table["M tokens"]) == [2, 2, 1.5, 1.5]


class Images(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])


def test_report_holds_the_figure_and_the_table(comparison, tmp_path):
    tsv, png, html = write_comparison(tmp_path, comparison(("masked", None)))
    assert list(pandas.read_csv(tsv, sep="\t")["BLEU"]) == [100, 80, 100, 80]
    text = html.read_text()
    parser = Images()
    parser.feed(text)
    (source,) = parser.sources
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == png.read_bytes()
    assert "<td>wait_k-3-recompute</td>" in text
    assert "&lt;b&gt;" in text and "<b>" not in text, "texts of a YAML are no HTML"
    assert "against masked with the same policy" in text
    assert "source: <code>test.en</code>" in text
