"""Which sentences reports show."""

import pytest

from simulmask_plugin.evaluation.examples import sentence_chrf, worst_and_typical


def test_worst_are_the_lowest_and_typical_the_nearest_to_the_median_of_the_others():
    scores = [*range(100, 60, -1)]
    shown = worst_and_typical(scores)
    assert [scores[i] for i in shown["worst"]] == [*range(61, 71)]
    assert sorted(scores[i] for i in shown["typical"]) == [*range(76, 86)], "the median is 80.5"


@pytest.mark.parametrize(("count", "worst", "typical"), [(1, 1, 0), (10, 10, 0), (13, 10, 3)])
def test_few_sentences_are_shown_once(count, worst, typical):
    shown = worst_and_typical([5.0] * count)
    assert [len(shown[kind]) for kind in ("worst", "typical")] == [worst, typical]
    assert len({*shown["worst"], *shown["typical"]}) == worst + typical


def test_score_is_that_of_the_sentence_alone():
    equal, empty, half = sentence_chrf(["a house", "", "the dog"], ["a house", "a house", "the cat"])
    assert (equal, empty) == (100, 0) and 0 < half < 50
