"""The report of an evaluation."""

import json
import math
import re
from dataclasses import replace
from datetime import date

import pytest
from reference import settings_of

from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.evaluation.config import EvaluationConfig, load_evaluation, resolve
from simulmask_plugin.evaluation.report import code, score_table, write_report
from simulmask_plugin.evaluation.run import describe
from simulmask_plugin.evaluation.scores import MEASURES, Score
from simulmask_plugin.streaming.options import Decision

SLOTS_16 = {"policy": "wait_k", "k": (1, 3), "layout": "slots", "slot_length": 16}


def write_log(run, predictions=("two dogs",)):
    """The instances.log of a run."""
    run.mkdir(parents=True, exist_ok=True)
    records = [
        {"source": f"source {index} |", "prediction": prediction, "reference": "the quick brown fox\n"}
        for index, prediction in enumerate(predictions)
    ]
    (run / "instances.log").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def report(tmp_path):
    """Writes the report of these policies, all with the same scores, and returns its lines."""

    def write(*policies, latency_unit="word", **keys):
        keys |= {"model": "model", "source": "s", "target": "t", "output": str(tmp_path), "latency_unit": latency_unit}
        config = EvaluationConfig(policies=policies, **keys)
        names = [Decision.from_dict(policy).name for policy in policies]
        for name in names:
            write_log(tmp_path / name)
        scores = [Score(name, 2, *[1.0] * 9, truncated=0) for name in names]
        write_report(tmp_path / "report.md", "toy_eval", config, settings_of(**SLOTS_16), scores, {}, {})
        return (tmp_path / "report.md").read_text().splitlines()

    return write


def test_report_names_the_runs_with_another_slot_length(report):
    wait_1 = {"policy": "wait_k", "k": 1}
    lines = report(wait_1, wait_1 | {"slot_length": 4}, wait_1 | {"slot_length": 16}, wait_1 | {"slot_length": 32})
    expected = "Streamed with another slot_length than trained with (16): wait_k-1-slot4, wait_k-1-slot32."
    assert lines.count(expected) == 1
    assert [line.split(" | ")[0] for line in lines if line.startswith("| wait_k-1")] == [
        "| wait_k-1",
        "| wait_k-1-slot4",
        "| wait_k-1-slot16",
        "| wait_k-1-slot32",
    ]


def test_report_of_the_trained_slot_length_says_nothing_of_it(report):
    assert not [line for line in report({"policy": "wait_k", "k": 1}) if "another slot_length" in line]


def sections_of(path):
    """The Markdown tables of a report: heading -> rows, each a list of cells."""
    return {
        section.splitlines()[0]: [
            [cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in section.splitlines()
            if line.startswith("|")
        ]
        for section in path.read_text().split("\n## ")[1:]
    }


def test_report_names_every_setting_with_what_was_used(model_of, byte_level, tmp_path):
    """The defaults that depend on the model, too: only eager attention caps the scores of Gemma 2."""
    model_of("gemma2", len(byte_level), 0).config.save_pretrained(tmp_path)
    policies = ({"policy": "wait_k", "k": 1}, {"policy": "offline"})
    target = tmp_path / "test.target"
    target.write_text("zwei Hunde")
    files = {"model": str(tmp_path), "source": "s", "target": str(target), "output": str(tmp_path)}
    write_log(tmp_path / "wait_k-1")
    given = EvaluationConfig(**files, policies=policies, limit=9)
    settings = settings_of(**SLOTS_16)
    scores = [Score("wait_k-1", 9, *[1.0] * 9, truncated=0)]
    signatures = {"BLEU": "nrefs:1|tok:13a", "Python": "3.11"}
    write_report(tmp_path / "report.md", "toy", resolve(given, settings), settings, scores, signatures, {})
    tables = sections_of(tmp_path / "report.md")
    evaluated, trained, signed = (
        dict(tables[heading][2:])
        for heading in ("How it was evaluated", "How the model was trained", "Signatures and versions")
    )
    of_run = {"policies": "wait_k-1, offline", "limit": "9", "jobs": "1", "max_target_tokens": "512"}
    assert evaluated == files | of_run | USED, "and nothing that says nothing, such as threads: None"
    block = {"policy": "wait_k", "k": "[1, 3]", "layout": "slots", "slot_length": "16"}
    assert trained == block | {"before": "Tr:", "header": r'"\nAs:"', "next_header": r'"\nUs:"'}
    assert signed == {"BLEU": r"nrefs:1\|tok:13a", "Python": "3.11"}


USED = {
    "engine": "simuleval",
    "attn_implementation": "eager",
    "dtype": "float32",
    "device": "cpu",
    "latency_unit": "word",
    "bleu_tokenize": "13a",
    "source_lang": "English",
    "target_lang": "German",
}


def test_report_says_what_was_evaluated_and_in_which_units(report):
    lines = report({"policy": "offline"}, latency_unit="char", source_lang="Czech", target_lang="Chinese")
    assert lines[0] == "# toy_eval"
    assert lines[2].startswith(
        "`model` translates 2 sentences of `s` from Czech to Chinese, streamed by SimulEval under 1 policies. "
        f"Reference: `t`. Report of {date.today().isoformat()}"
    )
    assert "- DAL: differentiable average lagging: source words (the target is counted in characters)" in lines
    for measure in MEASURES.values():
        assert [line for line in lines if line.startswith(f"- {measure.title}: ")], measure


def test_table_gives_every_number_its_own_digits(tmp_path):
    numbers = [74.284, 89.7, 2.1, 2.0, 0.7, 3.3, 0.0612, 1.63, 0.0396]
    scores = [Score("low", 9, *numbers, truncated=3, extra={"COMET": 0.8125}), Score("high", 9, *[math.nan] * 9, 0)]
    scores[1] = replace(scores[1], extra={"COMET": 1.0})
    titles, sides, low, high = score_table(scores).splitlines()
    assert titles == (
        "| policy | BLEU | chrF | LAAL | AL | AP | DAL | s / sentence | calls / token | GFLOPs / sentence | cut off "
        "| COMET |"
    )
    assert sides == "| --- |" + " ---: |" * 11
    assert low == "| low | 74.28 | 89.70 | 2.00 | 2.10 | 0.70 | 3.30 | 0.061 | 1.63 | 0.040 | 3 | 0.8125 |"
    assert high == "| high |" + "  |" * 9 + " 0 | 1.0000 |"


def test_report_names_the_language_pairs_and_latencies_that_were_trained(tmp_path):
    (tmp_path / "test.target").write_text("zwei Hunde")
    files = {"model": "m", "source": "s", "target": str(tmp_path / "test.target"), "output": str(tmp_path)}
    write_log(tmp_path / "low")
    languages = {"source_lang": "German", "target_lang": "French"}
    config = EvaluationConfig(**files, **languages, policies=({"latency": "low"},), latency_unit="word")
    trained_on = TrainedOn((("Chinese", "English"), ("German", "French")), ("low", "high"))
    settings = settings_of(layout="interleaved").after_training_on(trained_on)
    write_report(tmp_path / "report.md", "toy", config, settings, [Score("low", 9, *[1.0] * 9, truncated=0)], {}, {})
    trained = dict(sections_of(tmp_path / "report.md")["How the model was trained"][2:])
    assert trained["language_pairs"] == '[["Chinese", "English"], ["German", "French"]]'
    assert trained["latencies"] == '["low", "high"]'


@pytest.mark.parametrize("text, cell", [("a|b", r"`a\|b`"), ("a`b", "`` a`b ``"), ("plain", "`plain`")])
def test_texts_survive_in_a_table(text, cell):
    assert code(text) == cell


@pytest.mark.parametrize(
    ("tokenizer", "language", "extra"),
    [("char", "Japanese", "ja"), ("char", "ko", "ko"), ("ja-mecab", "ja", None), ("char", "Thai", None)],
)
def test_report_says_where_bleu_counts_characters_for_want_of_words(report, tokenizer, language, extra):
    lines = report({"policy": "offline"}, bleu_tokenize=tokenizer, target_lang=language)
    said = [line for line in lines if line.startswith("BLEU counts characters")]
    expected = f"tokenizer char); for words, {extra}-mecab: `pip install 'sacrebleu[{extra}]'`."
    assert [line.endswith(expected) for line in said] == ([] if extra is None else [True])


def test_report_shows_the_worst_and_typical_sentences_of_the_run_in_the_middle(tmp_path):
    words = "the quick brown fox".split()
    good, bad = "the quick brown fox", "thx qxick"
    predictions = [good] * 9 + [" ".join(words[: 1 + i % 3]) for i in range(12)] + [bad, ""]
    for name in ("low", "high", "offline"):
        write_log(tmp_path / name, predictions if name == "low" else [good] * 23)
    lags = {"offline": 8.0, "high": 1.0, "low": 3.0}
    scores = [Score(name, 23, *[1.0] * 9, truncated=0) for name in lags]
    scores = [replace(score, laal=lags[score.name]) for score in scores]
    files = {"model": "m", "source": "s", "target": "t", "output": str(tmp_path), "latency_unit": "word"}
    config = EvaluationConfig(**files, bleu_tokenize="13a", target_lang="German", policies=())
    write_report(tmp_path / "report.md", "toy", config, settings_of(**SLOTS_16), scores, {}, {})
    text = (tmp_path / "report.md").read_text()
    assert "As streamed with `low`, the run in the middle by LAAL" in text
    _, worst, typical = re.split("\n### ", text.split("## Sentences")[1].split("\n## ")[0])
    cells = [[cell.strip() for cell in line.split(" | ")] for line in worst.splitlines() if line.startswith("| ")][2:]
    assert cells[:2] == [
        ["| 22", "0.0", "source", r"`source 22 \|` |"],
        ["|", "", "reference", "`the quick brown fox` |"],
    ]
    assert cells[2] == ["|", "", "output", "|"] and cells[3][0] == "| 21" and cells[5][3] == "`thx qxick` |"
    numbers = {kind: re.findall(r"^\| (\d+) ", part, re.MULTILINE) for kind, part in (("w", worst), ("t", typical))}
    assert len(numbers["w"]) == len(numbers["t"]) == 10 and not set(numbers["w"]) & set(numbers["t"])
    assert numbers["t"][0] == "11", "the first with the chrF of the median, three words of four"


@pytest.mark.parametrize(("truncated", "said"), [(0, False), (2, True)])
def test_sentences_that_were_cut_off_are_said_with_their_count(truncated, said):
    files = {key: key for key in ("model", "source", "target", "output")}
    config = EvaluationConfig(**files, policies=({"policy": "offline"},), max_target_tokens=24)
    line = describe(Score("wait_k-1", *[1] * 10, truncated=truncated), config, {})
    assert line.startswith("BLEU 1.00 at LAAL 1.00 (1 sentences, 1.00 calls a token)")
    assert ("2 of them were cut off at max_target_tokens: 24" in line) == said


def test_evaluation_yaml_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: no such file"):
        load_evaluation(tmp_path / "none.yaml")
