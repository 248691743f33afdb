"""What is taken from the logits: the next token, and whether to WRITE."""

import copy

import pytest
import torch
from driving import encoder_of

from simulmask_plugin.policies import Evidence, ModelDriven
from simulmask_plugin.streaming.decoding import Chooser, ChunkChooser
from simulmask_plugin.text.prompts import READ_END, WRITE_END

VOCAB = 320
WAIT_1 = {"policy": "wait_k", "k": 1}
INTERLEAVED = {"layout": "interleaved"}


def preferring(tokenizer, *pieces):
    """Logits that prefer the pieces in this order."""
    logits = torch.zeros(len(tokenizer))
    for rank, piece in enumerate(pieces):
        logits[tokenizer.convert_tokens_to_ids(piece)] = len(pieces) - rank
    return logits


@pytest.mark.parametrize(
    "index, opening, chosen",
    [(3, True, "Ġdog"), (3, False, "og"), (0, True, "og")],
    ids=["opens a word", "goes on", "first token"],
)
def test_greedy_opens_words_only_where_one_may_begin(byte_level, index, opening, chosen):
    """The first token of all may be anything: no white space need stand before it."""
    choose = Chooser(encoder_of(byte_level, **WAIT_1), [])
    logits = preferring(byte_level, "og", "Ġdog", "Ġthe")
    assert choose(logits, index, opening) == byte_level.convert_tokens_to_ids(chosen)


def test_end_of_sentence_may_always_follow_a_word(byte_level):
    choose = Chooser(encoder_of(byte_level, **WAIT_1), [])
    assert choose(preferring(byte_level, "og", "<eos>"), 3, True) == byte_level.eos_token_id


def test_tokens_beyond_the_rows_of_the_model_are_never_chosen(byte_level, with_ends):
    """As in published models whose tokenizer was given tokens that nobody trained."""
    logits = preferring(byte_level, "Ġthe")[:-1]
    assert Chooser(encoder_of(byte_level, **WAIT_1), [])(logits, 3, True) == byte_level.convert_tokens_to_ids("Ġthe")
    tokenizer = copy.deepcopy(with_ends)
    tokenizer.add_tokens(["<nobody>"])
    chooser = chooser_of(tokenizer)
    for opens_word in (True, False):
        logits = preferring(tokenizer, "Ġthe")[:-1]
        assert chooser.next_token(logits, opens_word=opens_word) == tokenizer.convert_tokens_to_ids("Ġthe")


def test_tokens_may_begin_with_anything(byte_level):
    choose = Chooser(encoder_of(byte_level, target_units="token", **WAIT_1), [])
    assert choose(preferring(byte_level, "og", "Ġdog"), 3, True) == byte_level.convert_tokens_to_ids("og")


@pytest.mark.parametrize(
    "written, opening, chosen",
    [
        ("我", True, "og"),
        ("我们", False, "og"),
        ("do", True, "Ġdog"),  # "og" would go on with the run
        ("我 do", True, "Ġdog"),
        ("do", False, "og"),
    ],
)
def test_a_unit_of_characters_begins_behind_a_run_only_with_white_space_or_another_script(
    byte_level, written, opening, chosen
):
    ids = byte_level.encode(written, add_special_tokens=False)
    choose = Chooser(encoder_of(byte_level, target_units="character", **WAIT_1), ids)
    logits = preferring(byte_level, "og", "Ġdog")
    assert choose(logits, len(ids), opening) == byte_level.convert_tokens_to_ids(chosen)


# In chunks


def logits_of(tokenizer, **pieces):
    logits = torch.full((VOCAB,), -20.0)
    for piece, value in pieces.items():
        logits[tokenizer.convert_tokens_to_ids(piece)] = value
    return logits


def chooser_of(tokenizer, **block):
    encoder = encoder_of(tokenizer, **{**INTERLEAVED, **block})
    (read_end,) = encoder.frame(None, None)[1]
    ends = (tokenizer.convert_tokens_to_ids(WRITE_END), tokenizer.eos_token_id)
    return ChunkChooser(encoder, torch.device("cpu"), read_end=read_end, ends=ends)


def ends_read(tokenizer, logits, threshold=None):
    evidence = Evidence(logits, tokenizer.convert_tokens_to_ids(READ_END))
    return ModelDriven(read_threshold=threshold).accepts(evidence)


@pytest.mark.parametrize("likelier, ends", [(1.0, True), (-1.0, False)])
def test_model_ends_the_read_when_no_other_token_is_likelier(with_ends, likelier, ends):
    logits = logits_of(with_ends, **{READ_END: likelier, "Ġdog": 0.0, "Ġthe": -0.5})
    assert ends_read(with_ends, logits) is ends


@pytest.mark.parametrize("threshold, ends", [(0.24, True), (0.25, True), (0.26, False)])
def test_model_ends_the_read_when_its_probability_reaches_the_threshold(with_ends, threshold, ends):
    """P is 1/4 exactly."""
    logits = torch.full((VOCAB,), -torch.inf)
    logits[with_ends.convert_tokens_to_ids([READ_END, "Ġdog", "Ġthe", "Ġcat"])] = 0.0
    assert ends_read(with_ends, logits, threshold) is ends


def test_read_end_is_never_written(with_ends):
    choose = chooser_of(with_ends)
    logits = logits_of(with_ends, **{READ_END: 9.0, "Ġdog": 1.0, "og": 2.0})
    assert choose.next_token(logits, opens_word=True) == with_ends.convert_tokens_to_ids("Ġdog")
    assert choose.next_token(logits, opens_word=False) == with_ends.convert_tokens_to_ids("og")
    read_end = with_ends.convert_tokens_to_ids(READ_END)
    assert choose.scores(logits, opens_word=False)[read_end] == -torch.inf


@pytest.mark.parametrize("end", [WRITE_END, "<eos>"])
def test_write_may_end_before_its_first_word(with_ends, end):
    logits = logits_of(with_ends, **{end: 3.0, "Ġdog": 1.0, "og": 2.0})
    assert chooser_of(with_ends).next_token(logits, opens_word=True) == with_ends.convert_tokens_to_ids(end)


def test_characters_of_a_chunk_may_begin_with_anything(with_ends):
    choose = chooser_of(with_ends, target_units="character")
    logits = logits_of(with_ends, **{READ_END: 9.0, "Ġdog": 1.0, "og": 2.0})
    assert choose.next_token(logits, opens_word=True) == with_ends.convert_tokens_to_ids("og")
