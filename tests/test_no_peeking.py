"""What has not been read changes nothing, not even a bit."""

import random

import pytest
import reference
import torch
from driving import Forced, drive, encoder_of

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.config.block import ROWS
from simulmask_plugin.layouts.positions import scheme_of
from simulmask_plugin.layouts.prefix import prefix_layout
from simulmask_plugin.policies import make_policy, roll_out
from simulmask_plugin.streaming.unit_session import StreamingSession

LAYERS = {"llama": "num_hidden_layers", "falcon": "num_hidden_layers", "bloom": "n_layer", "mpt": "n_layers"}
CELLS = [("llama", "group"), ("falcon", "modified_alibi"), ("bloom", "modified_alibi"), ("mpt", "modified_alibi")]
SOURCE, TARGET = [1, 3, 2, 1, 2], [2, 1, 3, 1]


def batch_of(rows, positions, policy):
    """Two examples of other lengths in one padded batch, and how many source units each row may see."""
    layouts = []
    for source, target in [(SOURCE, TARGET), (SOURCE[1:], TARGET[1:])]:
        example = reference.pieces_of(2, source, 1, target).example()
        schedule = roll_out(policy, len(source), len(target))
        layouts.append(prefix_layout(example, schedule, rows=rows, scheme=scheme_of(positions)))
    settings = reference.settings_of(policy="offline", positions=positions)
    return SimulMaskCollator(settings, pad_token_id=0, pad_to_multiple_of=8).pad(layouts)


@torch.no_grad()
def logits_of(model, batch):
    prepare(model)
    inputs = training_inputs(batch, model.config, model.dtype)
    del inputs["labels"]
    return model(**inputs, use_cache=False).logits


def check_that_unread_source_changes_nothing(model, batch):
    """Change the tokens of one source unit after the other; rows that may not see it stay as they are."""
    before = logits_of(model, batch)
    ids, num_read = batch["input_ids"], batch["num_read"]
    target = (ids >= 300) | (ids == 2)  # header, target and end of sentence, by the numbers that pieces_of gives
    for unit in range(len(SOURCE)):
        changed = (batch["source_unit"] == unit) & ~target
        after = logits_of(model, batch | {"input_ids": ids.masked_fill(changed, 7)})
        blind, sighted = (target & changed.any(1, keepdim=True) & rows for rows in (num_read <= unit, num_read > unit))
        assert torch.equal(before[blind], after[blind]), f"a row has seen source unit {unit}"
        assert (before[sighted] != after[sighted]).any(-1).all(), f"a row has not seen source unit {unit}"
        assert torch.equal(before[~changed.any(1)], after[~changed.any(1)]), "an example has seen another"


@pytest.mark.parametrize("name, positions", CELLS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("policy", [make_policy("wait_k", k=1), make_policy("read_n", n=2)], ids=["wait-1", "read-2"])
def test_unread_source_cannot_change_target(model_of, name, positions, rows, policy):
    """Through four layers, in a padded batch; what has been read does change it."""
    model = model_of(name, 450, 0, **{LAYERS[name]: 4})
    check_that_unread_source_changes_nothing(model, batch_of(rows, positions, policy))


def one_unit_more(query_order, key_order, source_unit, num_read):
    """`<=` in the place of `<`."""
    query, key = query_order[:, :, None], key_order[:, None, :]
    readable = source_unit[:, None, :] <= num_read[:, :, None]
    return ((key < query) & readable | (key == query))[:, None]


def not_causal(query_order, key_order, source_unit, num_read):
    readable = source_unit[:, None, :] < num_read[:, :, None]
    return (readable | (key_order[:, None, :] == query_order[:, :, None]))[:, None]


def no_schedule(query_order, key_order, source_unit, num_read):
    return (key_order[:, None, :] <= query_order[:, :, None])[:, None]


@pytest.mark.parametrize("name, positions", CELLS[:2])
@pytest.mark.parametrize("mutation", [one_unit_more, not_causal, no_schedule])
def test_the_check_notices_a_wrong_mask(model_of, name, positions, mutation, monkeypatch):
    model = model_of(name, 450, 0, **{LAYERS[name]: 4})
    batch = batch_of("look_ahead", positions, make_policy("wait_k", k=1))
    monkeypatch.setattr("simulmask_plugin.attention.mask.may_attend", mutation)
    with pytest.raises(AssertionError, match="a row has (not )?seen source unit"):
        check_that_unread_source_changes_nothing(model, batch)


def test_look_ahead_row_is_seen_by_nobody(model_of):
    model = model_of("llama", 450, 0, num_hidden_layers=4)
    batch = batch_of("look_ahead", "group", make_policy("wait_k", k=1))
    num_source = torch.tensor([[len(SOURCE)], [len(SOURCE) - 1]])
    look_ahead = batch["source_unit"] == num_source
    assert look_ahead.sum() == 2 * len(TARGET) - 1
    before = logits_of(model, batch)
    after = logits_of(model, batch | {"input_ids": batch["input_ids"].masked_fill(look_ahead, 7)})
    assert torch.equal(before[~look_ahead], after[~look_ahead])


WORDS = "abc the dog cd xyz abcde cat".split()


def stream(model, encoder, words, policy, ahead):
    """Greedy; returns, for each row in order, how much had been read when the model was asked, and its logits."""
    seen = []
    session = StreamingSession(model=model, encoder=encoder, policy=policy, max_target_tokens=40)
    session.trace = lambda index, kind, logits: seen.append((session.num_read, index, kind, logits))
    drive(session, words, ahead=ahead)
    return seen


@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "modified_alibi")])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("changed", [1, 4, 6])
def test_what_is_written_before_a_read_does_not_depend_on_later_words(
    model_of, byte_level, name, positions, rows, changed
):
    model = model_of(name, len(byte_level), 0)
    encoder = encoder_of(byte_level, policy="wait_k", k=1, positions=positions, rows=rows)
    policy = make_policy("wait_k", k=1)
    other = [*WORDS[:changed], *random.Random(0).sample(["b", "house", "d", "yy", "zebra"], 2)]
    one, two = (
        [row for row in stream(model, encoder, words, policy, False) if row[0] <= changed] for words in (WORDS, other)
    )
    assert len(one) == len(two) > 0
    for (*one_row, one_logits), (*two_row, two_logits) in zip(one, two, strict=True):
        assert one_row == two_row
        assert torch.equal(one_logits, two_logits)


def test_words_that_are_there_but_not_yet_to_be_seen_change_nothing(model_of, byte_level):
    """The whole source has arrived; the rows of wait-1 see one word after the other."""
    model = model_of("llama", len(byte_level), 0)
    encoder = encoder_of(byte_level, policy="wait_k", k=1)
    example = encoder.encode(reference_row(WORDS))
    target_ids = example.input_ids[example.source_end + example.num_header :].tolist()
    ends = example.target_lengths.cumsum()
    streamed = []
    for words in (WORDS, [*WORDS[:3], "house", "b", "d", "e"]):
        forced = Forced(target_ids)
        session = StreamingSession(
            model=model,
            encoder=encoder,
            policy=make_policy("wait_k", k=1),
            choose=forced.choose,
            trace=forced.trace,
        )
        drive(session, words, ahead=True)
        streamed.append(forced.rows)
    for (index, kind), logits in streamed[0].items():
        unit = int((ends <= index).sum())  # of the token; its kept row, if it is the last, sees one word more
        sees = unit + 1 + (index + 1 in ends and kind == "kept")
        close = torch.allclose(logits, streamed[1][index, kind], atol=1e-4)
        assert close == (sees <= 3), (index, kind)


def reference_row(words):
    from simulmask_plugin.batches.features import Row

    return Row(" ".join(words), "abcd the cat dog house xyzab", "English", "German")
