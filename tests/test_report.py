"""The report of an evaluation."""

import pytest
from reference import settings_of

from simulmask_plugin.evaluation import EvaluationConfig, Score
from simulmask_plugin.report import write_report
from simulmask_plugin.sessions import Decision

SLOTS_16 = {"policy": "wait_k", "k": (1, 3), "layout": "slots"}


@pytest.fixture
def report(tmp_path):
    """Writes the report of these policies, all with the same scores, and returns its lines."""

    def write(*policies):
        config = EvaluationConfig(model="model", source="s", target="t", output="o", policies=policies)
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
