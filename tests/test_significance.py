"""The paired bootstrap, against sacrebleu's own."""

import random

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from simulmask_plugin.evaluation.significance import bootstrap_p

WORDS = "a man in the red coat rides his old bicycle along a street".split()


def texts(seed, rate):
    """Sixty sentences, in which words are replaced at this rate."""
    rng = random.Random(seed)
    return [" ".join("x" if rng.random() < rate else word for word in WORDS) for _ in range(60)]


REFERENCES = [texts(0, 0.0)]


@pytest.mark.parametrize("rate", [0.1, 0.12, 0.15, 0.3])
def test_of_one_training_a_side_it_is_that_of_sacrebleu(rate):
    ours, theirs = texts(1, rate), texts(2, 0.1)
    _, scores = PairedTest([("theirs", theirs), ("ours", ours)], {"BLEU": BLEU()}, REFERENCES, test_type="bs")()
    assert bootstrap_p(BLEU(), [ours], [theirs], REFERENCES) == scores["BLEU"][1].p_value


def test_what_no_sample_tells_apart_is_the_same():
    assert bootstrap_p(BLEU(), [texts(1, 0.1)], [texts(1, 0.1)], REFERENCES) == 1
    assert bootstrap_p(BLEU(), [["y"] * 60], [["z"] * 60], REFERENCES) == 1, "nothing is right on either side"


def test_one_good_training_of_two_proves_nothing():
    theirs, good, bad = texts(2, 0.3), texts(1, 0.02), texts(3, 0.5)
    assert bootstrap_p(BLEU(), [good], [theirs], REFERENCES) < 0.01
    assert bootstrap_p(BLEU(), [bad], [theirs], REFERENCES) < 0.01
    assert bootstrap_p(BLEU(), [good, bad], [theirs], REFERENCES) > 0.1


def test_every_call_draws_the_same():
    sides = [texts(1, 0.1), texts(3, 0.2)], [texts(2, 0.1)]
    assert bootstrap_p(BLEU(), *sides, REFERENCES) == bootstrap_p(BLEU(), *sides, REFERENCES)
