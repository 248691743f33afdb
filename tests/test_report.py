"""The report of an evaluation."""

from dataclasses import fields

import pytest
from reference import settings_of

from simulmask_plugin.config import SimulMaskConfig
from simulmask_plugin.evaluation_config import EvaluationConfig, resolve
from simulmask_plugin.prompts import Prompt
from simulmask_plugin.report import write_report
from simulmask_plugin.scores import Score
from simulmask_plugin.sessions import Decision

SLOTS_16 = {"policy": "wait_k", "k": (1, 3), "layout": "slots"}


@pytest.fixture
def report(tmp_path):
    """Writes the report of these policies, all with the same scores, and returns its lines."""

    def write(*policies, **keys):
        config = EvaluationConfig(model="model", source="s", target="t", output="o", policies=policies, **keys)
        names = [Decision.from_dict(policy).name for policy in policies]
        scores = [Score(name, 2, *[1.0] * 9, truncated=0) for name in names]
        write_report(tmp_path / "report.md", config, settings_of(**SLOTS_16), scores, {})
        return (tmp_path / "report.md").read_text().splitlines()

    return write


def test_report_names_the_runs_with_another_slot_length(report):
    wait_1 = {"policy": "wait_k", "k": 1}
    lines = report(wait_1, wait_1 | {"slot_length": 4}, wait_1 | {"slot_length": 16}, wait_1 | {"slot_length": 32})
    expected = "Streamed with another slot_length than trained with (16): wait_k-1-slot4, wait_k-1-slot32."
    assert lines.count(expected) == 1
    assert [line.split(" | ")[0] for line in lines if "wait_k-1" in line and line.startswith("|")] == [
        "| wait_k-1",
        "| wait_k-1-slot4",
        "| wait_k-1-slot16",
        "| wait_k-1-slot32",
    ]


def test_report_of_the_trained_slot_length_says_nothing_of_it(report):
    assert not [line for line in report({"policy": "wait_k", "k": 1}) if "another slot_length" in line]


def test_report_names_every_setting_with_what_was_used(model_of, byte_level, tmp_path):
    """The defaults that depend on the model, too: only eager attention caps the scores of Gemma 2."""
    model_of("gemma2", len(byte_level), 0).config.save_pretrained(tmp_path)
    given = EvaluationConfig(
        model=str(tmp_path), source="s", target="t", output="o", policies=({"policy": "wait_k", "k": 1},), limit=9
    )
    settings = settings_of(**SLOTS_16)
    config = resolve(given, settings)
    scores = [Score("wait_k-1", 9, *[1.0] * 9, truncated=0)]
    write_report(tmp_path / "report.md", config, settings, scores, {"BLEU": "tok:13a", "Python": "3.11"})
    trained, evaluated, signed = (
        dict(line.removeprefix("- ").split(": ", 1) for line in section.splitlines() if line.startswith("- "))
        for section in (tmp_path / "report.md").read_text().split("\n## ")[1:]
    )
    assert set(evaluated) == {field.name for field in fields(EvaluationConfig)}
    assert {key: evaluated[key] for key in USED} == USED
    assert (evaluated["limit"], evaluated["threads"]) == ("`9`", "`None`")
    assert set(trained) == {field.name for kind in (SimulMaskConfig, Prompt) for field in fields(kind)}
    assert (trained["k"], trained["n"]) == ("`(1, 3)`", "`None`")
    assert signed == {"BLEU": "`tok:13a`", "Python": "`3.11`"}


USED = {
    "attn_implementation": "`'eager'`",
    "dtype": "`'float32'`",
    "device": "`'cpu'`",
    "latency_unit": "`'word'`",
    "bleu_tokenize": "`'13a'`",
    "source_lang": "`'English'`",
    "target_lang": "`'German'`",
}


@pytest.mark.parametrize(
    ("tokenizer", "language", "is_said"),
    [("char", "Japanese", True), ("ja-mecab", "ja", False), ("char", "Thai", False)],
)
def test_report_says_where_bleu_of_japanese_counts_characters(report, tokenizer, language, is_said):
    lines = report({"policy": "offline"}, bleu_tokenize=tokenizer, target_lang=language)
    assert any(line.startswith("BLEU counts characters") for line in lines) == is_said
