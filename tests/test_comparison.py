"""The table and the report of a study, from runs that are written by hand."""

import base64
import math
from dataclasses import replace
from html.parser import HTMLParser

import pandas
import pytest
from sacrebleu.metrics import BLEU

from simulmask_plugin.evaluation.comparison import (
    Comparison,
    Run,
    Training,
    make_table,
    p_text,
    p_values,
    samples,
    write_comparison,
)
from simulmask_plugin.evaluation.scores import Score
from simulmask_plugin.streaming.options import Decision

REFERENCES = [f"the quick brown fox number {i} jumps over a lazy dog" for i in range(40)]
WORSE = [text.replace("brown fox", "dog") if i % 2 else text for i, text in enumerate(REFERENCES)]
TRAININGS = {"plain": Training(2, 100, 2_000_000), "masked": Training(1, 60, 1_500_000)}


def run_of(system, model, decision, predictions, bleu=0.0):
    zeros = dict.fromkeys(("chrf", "al", "laal", "ap", "dal", "seconds_per_sentence", "calls_per_token"), 1.5)
    score = Score(decision.name, 40, bleu=bleu, gflops_per_sentence=0.5, truncated=0, extra={"COMET": 0.8125}, **zeros)
    return Run(system, model, decision, score, predictions, [REFERENCES])


@pytest.fixture(scope="module")
def comparison():
    wait = [Decision.from_dict({"policy": "wait_k", "k": k}) for k in (3, 5)]
    runs = [
        run_of("offline", "plain", Decision.from_dict({"policy": "offline"}), REFERENCES, 100.0),
        run_of("recompute", "plain", Decision.from_dict({"policy": "wait_k", "k": 3, "recompute": True}), WORSE, 80.0),
        run_of("masked", "masked", wait[0], REFERENCES, 100.0),
        run_of("masked", "masked", wait[1], WORSE, 80.0),
    ]
    models = {"plain": {"stage 1": "train: max_steps: 9", "policy": "offline", "n": None}}
    stages = {"stage 1": "train: lora_rank: 4", "stage 2": "export"}
    models["masked"] = stages | {"policy": "wait_k", "k": (3, 5), "instruction": "<b>"}
    return lambda reference: Comparison(
        title="A <study> & more",
        date="2026-01-31",
        runs=runs,
        trainings=TRAININGS,
        plain="plain",
        reference=reference,
        bleu=BLEU(),
        models=models,
        evaluation={"source": "test.en", "limit": None},
        versions={"torch": "2"},
        sources=[f"source {i}" for i in range(40)],
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


@pytest.fixture(scope="module")
def with_seeds(comparison):
    """A comparison whose second system was trained twice, and is worse than the reference only once."""
    offline, _, masked, other = comparison(("masked", None)).runs
    again = replace(other, model="masked seed 1", decision=masked.decision, score=replace(other.score, name="wait_k-3"))
    plain = replace(masked, system="plain", model="plain")
    trainings = {**TRAININGS, "masked seed 1": Training(1, 80, 1_500_000)}
    return replace(comparison(("plain", None)), runs=[plain, masked, again, offline], trainings=trainings)


def test_trainings_of_other_seeds_are_one_row_of_means(with_seeds):
    table = make_table(with_seeds).set_index("system")
    assert list(table["trainings"]) == [1, 2, 1]
    assert table["BLEU"]["masked"] == 90 and table["sd (BLEU)"]["masked"] == pytest.approx(200**0.5)
    assert table["time / epoch"]["masked"] == 1.4
    assert math.isnan(table["sd (BLEU)"]["plain"])


def test_bootstrap_draws_the_trainings_too(with_seeds):
    _, p, _ = p_values(with_seeds)
    runs = [run for run in with_seeds.runs if run.model != "masked"]
    _, p_of_one, _ = p_values(replace(with_seeds, runs=runs))
    assert p > 0.1 > 0.01 > p_of_one, "a training may be as good as the reference, which sentences alone cannot tell"


def test_report_explains_what_several_trainings_are(with_seeds, written, tmp_path):
    assert "trainings: of models with several seeds" in write_comparison(tmp_path, with_seeds)[2].read_text()
    assert "several seeds" not in written[2].read_text()


class Report(HTMLParser):
    """A report, taken apart: tables of rows of cells, their captions, the sources of images, other texts by tag."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.captions, self.images, self.texts, self.tag = [], [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.tag = "td" if tag == "code" else tag

    def handle_data(self, data):
        if self.tag in ("td", "th"):
            self.tables[-1][-1][-1] += data.strip()
        elif self.tag == "caption" and data.strip():
            self.captions.append(data)
        elif data.strip():
            self.texts.setdefault(self.tag, data)


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    """Paths of the table, the figure and the report."""
    return write_comparison(tmp_path_factory.mktemp("study"), comparison(("masked", None)))


@pytest.fixture(scope="module")
def report(written):
    return Report(written[2].read_text())


def test_report_holds_the_figure_and_the_table(written, report):
    assert list(pandas.read_csv(written[0], sep="\t")["BLEU"]) == [100, 80, 100, 80]
    (source,) = report.images
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == written[1].read_bytes()


def test_table_of_the_report_gives_every_number_its_own_digits(report):
    head, offline, recompute, *_ = report.tables[0]
    row = dict(zip(head, recompute, strict=True))
    assert (row["system"], row["policy"], row["BLEU"], row["LAAL"]) == (
        "recompute",
        "wait_k-3-recompute",
        "80.00",
        "1.50",
    )
    assert row["p (BLEU)"] == "<0.001"
    assert row["GFLOPs / sentence"] == "0.500"
    assert row["COMET"] == "0.8125"
    assert dict(zip(head, offline, strict=True))["p (BLEU)"] == ""


def test_report_is_named_and_dated_and_escapes_its_texts(written, report):
    text = written[2].read_text()
    assert report.texts["title"] == report.texts["h1"] == "A <study> & more"
    assert "2026-01-31" in text and "against masked with the same policy" in text
    assert "<study>" not in text and "<b>" not in text, "texts of a YAML are no HTML"


def test_report_lists_the_stages_and_the_settings_that_differ_from_their_defaults(report):
    tables = dict(zip(report.captions, report.tables[1:], strict=True))
    assert tables["plain"] == [["stage 1", "train: max_steps: 9"], ["policy", "offline"]]
    stages = [["stage 1", "train: lora_rank: 4"], ["stage 2", "export"]]
    assert tables["masked"] == [*stages, ["policy", "wait_k"], ["k", "[3, 5]"], ["instruction", "<b>"]]
    assert tables["Evaluation"] == [["source", "test.en"]]
    assert tables["Signatures and versions"] == [["torch", "2"]]


def test_report_shows_the_worst_sentences_then_typical_ones(comparison, report):
    """Sentences 1, 3, ... have lost their fox."""
    shown = samples(comparison(("masked", None)).sources, comparison(("masked", None)).runs)
    assert [sample.why.partition(" (")[0] for sample in shown] == ["worst"] * 10 + ["typical"] * 10
    means = [sum(float(chrf) for _, _, chrf, _ in sample.outputs) / 4 for sample in shown]
    assert means[:10] == sorted(means[:10]) and max(means[:10]) <= min(means[10:])
    worst = shown[0]
    assert worst.number % 2 == 1 and worst.why == f"worst (mean chrF {means[0]:.1f})"
    table = report.tables[1]
    assert report.captions[0] == f"Sentence {worst.number}: {worst.why}"
    assert table[0] == ["Source", f"source {worst.number}"]
    assert table[1] == ["Reference", REFERENCES[worst.number]]
    assert [row[:3] for row in table[2:4]] == [
        ["offline", "offline", "100.0"],
        ["recompute", "wait_k-3-recompute", worst.outputs[1][2]],
    ]
    assert [row[3] for row in table[2:]] == [text[worst.number] for text in (REFERENCES, WORSE, REFERENCES, WORSE)]


def test_one_sentence_is_shown_once(comparison):
    runs = [
        replace(run, predictions=run.predictions[:1], references=[REFERENCES[:1]]) for run in comparison(("", "")).runs
    ]
    assert [sample.number for sample in samples(["a"], runs)] == [0]


@pytest.mark.parametrize(
    "p, text", [(0.000999, "<0.001"), (0.001, "0.001"), (0.0423, "0.042"), (1.0, "1.000"), (math.nan, "")]
)
def test_p_has_three_digits(p, text):
    assert p_text(p) == text
