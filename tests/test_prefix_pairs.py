"""Prefix fine-tuning: what a sentence pair becomes, and that streaming predicts from the same text."""

import json
import random
from importlib import import_module

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import drive, encoder_of, pieces_of, scheduled_pieces, schedules, settings_of
from test_cli import llama_factory, write_setup
from test_parity import sentence

from simulmask_plugin import factory, training_data
from simulmask_plugin.attention import compare_attention
from simulmask_plugin.cli import main
from simulmask_plugin.collator import SimulMaskCollator
from simulmask_plugin.config import ModelSettings, SimulMaskConfig
from simulmask_plugin.evaluation_config import check_evaluation, load_evaluation
from simulmask_plugin.features import FEATURE_COLUMNS, Row, features_of
from simulmask_plugin.parity import ParityResult, compare, promises_parity, training_logits
from simulmask_plugin.policies import make_policy
from simulmask_plugin.recompute_session import RecomputeSession
from simulmask_plugin.sessions import Decision, open_session
from simulmask_plugin.streaming import StreamingSession
from simulmask_plugin.training_data import SimulMaskDatasetProcessor, count_rows, row_of
from simulmask_plugin.units import split_units

VOCAB = 450
IGNORED = -100
PAIRS = {"prefix_pairs": True, "positions": "contiguous"}
WAIT_2 = {"policy": "wait_k", "k": 2, **PAIRS}
POLICIES = {
    "wait-1": {"policy": "wait_k", "k": 1},
    "wait-2": {"policy": "wait_k", "k": 2},
    "read-2": {"policy": "read_n", "n": 2},
    "offline": {"policy": "offline"},
    "schedule": {"policy": "schedule"},
}
words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=6)


def batches_of(pieces, column=None, **block):
    """The batch of every pair of an example, without padding: from row to tensors, as training does it."""
    block = settings_of(**PAIRS, **block)
    collator = SimulMaskCollator(block, pad_token_id=0)
    features = features_of(pieces.example(), column, block.config)
    assert all(tuple(feature) == FEATURE_COLUMNS for feature in features)
    return [{name: values[0].tolist() for name, values in collator([feature]).items()} for feature in features]


def ids_and_labels(batches):
    return [(batch["input_ids"], batch["labels"]) for batch in batches]


def test_golden_pairs_of_wait_2():
    """g = 2 3 3 3: the first unit is a WRITE, then the other two and the end of sentence."""
    batches = batches_of(pieces_of(1, [1, 2, 1], 1, [1, 2, 1]), policy="wait_k", k=2)
    assert ids_and_labels(batches) == [
        ([10, 20, 21, 22, 300, 400, 401], [-100, -100, -100, -100, -100, 400, 401]),
        (
            [10, 20, 21, 22, 23, 300, 400, 401, 402, 403, 2],
            [-100, -100, -100, -100, -100, -100, -100, 401, 402, 403, 2],
        ),
    ]


@pytest.mark.parametrize(
    "g, expected",
    [
        # The end of sentence waits for source: a WRITE of its own, whose only label it is.
        ((1, 2), [([20, 300, 400, 2], [-100, -100, 400, 2]), ([20, 21, 300, 400, 2], [-100, -100, -100, -100, 2])]),
        # Nothing is read before the first unit.
        ((0, 2), [([300, 400, 2], [-100, 400, 2]), ([20, 21, 300, 400, 2], [-100, -100, -100, -100, 2])]),
        ((0, 0), [([300, 400, 2], [-100, 400, 2])]),
        ((1, 1), [([20, 300, 400, 2], [-100, -100, 400, 2])]),
        ((2, 2), [([20, 21, 300, 400, 2], [-100, -100, -100, 400, 2])]),
    ],
)
def test_golden_pairs_of_schedules(g, expected):
    assert ids_and_labels(batches_of(pieces_of(0, [1, 1], 1, [1]), g, policy="schedule")) == expected


def reference_pairs(pieces, g):
    """(ids, labels) of every WRITE, by one walk over the target units."""
    tokens = [*pieces.target, [pieces.eos]]
    pairs, t = [], 0
    while t < len(g):
        last = t
        while last + 1 < len(g) and g[last + 1] == g[t]:
            last += 1
        ids = list(pieces.prompt)
        for unit in pieces.source[: g[t]]:
            ids += unit
        ids += pieces.header
        labels = [IGNORED] * len(ids)
        for number, unit in enumerate(tokens[: last + 1]):
            ids += unit
            labels += unit if number >= t else [IGNORED] * len(unit)
        if last + 1 < len(tokens):
            ids.append(tokens[last + 1][0])
            labels.append(tokens[last + 1][0])
        pairs.append((ids, labels))
        t = last + 1
    return pairs


@given(scheduled_pieces())
def test_pairs_are_those_of_a_slow_loop_and_plain_causal(drawn):
    pieces, g = drawn
    batches = batches_of(pieces, g, policy="schedule")
    assert ids_and_labels(batches) == reference_pairs(pieces, g)
    for batch in batches:
        assert batch["position_ids"] == list(range(len(batch["input_ids"])))
        sees_all = [seen > unit for seen in batch["num_read"] for unit in batch["source_unit"] if unit >= 0]
        assert all(sees_all)


@given(scheduled_pieces())
def test_every_target_token_is_learned_once_in_a_unit_of_its_own(drawn):
    pieces, g = drawn
    features = features_of(pieces.example(), g, settings_of(policy="schedule", **PAIRS).config)
    learned = []
    for feature, (_, labels) in zip(features, reference_pairs(pieces, g), strict=True):
        start = feature["num_prompt"] + sum(feature["source_lengths"]) + feature["num_header"]
        own_start = start + sum(feature["target_lengths"][: feature["num_written"]])
        own_end = start + sum(feature["target_lengths"])
        assert labels[own_start : own_end + 1] == feature["input_ids"][own_start : own_end + 1]
        assert set(labels[:own_start]) <= {IGNORED}
        learned += labels[own_start:own_end]
    assert learned == [token for unit in pieces.target for token in unit]
    assert feature["input_ids"][-1] == pieces.eos


# Streaming


def row(source, target, g=None):
    return {"_source": source, "_target": target, "_schedule": g, "_where": "here"}


def processed(encoder, *rows, cutoff_len=1000):
    """The features that LLaMA-Factory's map would give the collator."""
    columns = {f"_{name}": [None] * len(rows) for name in training_data.COLUMNS}
    columns |= {name: [values[name] for values in rows] for name in rows[0]}
    processor = SimulMaskDatasetProcessor(encoder.tokenizer, encoder.settings, cutoff_len)
    batch = processor.preprocess_dataset(columns)
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def trained_rows(model, encoder, source, target, g):
    """(text up to the row, logits) of every row with a target, pair by pair."""
    collator = SimulMaskCollator(encoder.settings, pad_token_id=0)
    for feature in processed(encoder, row(source, target, g)):
        layout = collator.lay_out(feature)
        logits = training_logits(model, encoder.settings, layout)
        for place in range(1, len(layout.labels)):
            if layout.labels[place] != IGNORED:
                yield layout.input_ids[:place].tolist(), logits[place - 1]


def streamed_rows(session_class, model, encoder, source, target, policy):
    """The same of every prediction of a session that is forced through the target."""
    example = encoder.encode(Row(source, target, None, None))
    target_ids = example.input_ids[example.source_end + example.num_header :].tolist()
    rows = []

    def trace(index, kind, logits):
        rows.append((session.feeder.kept_ids(), logits))

    session = session_class(
        model=model,
        encoder=encoder,
        policy=policy,
        choose=lambda logits, index, opening: target_ids[index],
        trace=trace,
        max_unit_tokens=99,
    )
    drive(session, split_units(source, encoder.source.unit))
    return rows


def assert_streaming_predicts_what_was_trained(model, encoder, source, target, g, policy):
    """In the same order, too: WRITE by WRITE. Early ends of sentence may follow until the source has ended."""
    trained = list(trained_rows(model, encoder, source, target, g))
    streamed = streamed_rows(RecomputeSession, model, encoder, source, target, policy)
    assert [text for text, _ in streamed[: len(trained)]] == [text for text, _ in trained]
    for (_, expected), (_, logits) in zip(trained, streamed, strict=False):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert max(logits.abs().max() for _, logits in trained) > 1, "too small for a difference to be seen"


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize("target_units", ["word", "character", "token"])
@pytest.mark.parametrize("policy", ["wait-1", "wait-2", "read-2", "offline"])
def test_a_session_that_recomputes_predicts_from_the_text_of_training(model_of, byte_level, name, target_units, policy):
    encoder = encoder_of(byte_level, target_units=target_units, **POLICIES[policy], **PAIRS)
    (decision,) = encoder.settings.config.policies()
    rng = random.Random(0)
    for num_source, num_target in [(1, 1), (6, 1), (1, 5), (6, 4)]:
        texts = sentence(rng, num_source), sentence(rng, num_target)
        assert_streaming_predicts_what_was_trained(model_of(name, VOCAB, 0), encoder, *texts, None, decision)


@given(words, st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), schedules(num_target=n))), st.booleans())
@settings(max_examples=25)
def test_any_schedule_is_streamed_as_it_was_trained(model_of, byte_level, letters, schedule, alibi):
    num_target, (g, num_source) = schedule
    source, target = (" ".join((letters[::step] * n)[:n]) for step, n in ((1, num_source), (-1, num_target)))
    encoder = encoder_of(byte_level, policy="schedule", **PAIRS)
    model = model_of("falcon" if alibi else "llama", VOCAB, 0)
    assert_streaming_predicts_what_was_trained(model, encoder, source, target, list(g), lambda t: g[t - 1])


@pytest.mark.parametrize("policy", POLICIES)
def test_the_command_parity_compares_the_pairs(model_of, byte_level, policy):
    encoder = encoder_of(byte_level, **POLICIES[policy], **PAIRS)
    assert promises_parity(encoder.settings)
    result = ParityResult()
    compare(model_of("llama", VOCAB, 0), encoder, Row("the dog abc", "cat abcde xyz", None, None, (0, 1, 1, 3)), result)
    assert result.holds
    assert result.rows >= 4


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_a_kept_cache_has_the_mismatch_of_growing_source(model_of, byte_level, name):
    """Where the target was written before the source behind which training put it; offline there is none."""
    for policy, is_apart in (("wait-1", True), ("offline", False)):
        encoder = encoder_of(byte_level, **POLICIES[policy], **PAIRS)
        (decision,) = encoder.settings.config.policies()
        texts = "abc the dog cd xyz", "cat dexyzz house dog"
        model = model_of(name, VOCAB, 0)
        kept = {tuple(ids): x for ids, x in streamed_rows(StreamingSession, model, encoder, *texts, decision)}
        trained = {tuple(ids): x for ids, x in trained_rows(model, encoder, *texts, None)}
        gap = max((kept[text] - trained[text]).abs().max() for text in kept.keys() & trained.keys())
        assert (gap > 1e-2) == is_apart
        assert (gap <= 1e-4) == (not is_apart)


@pytest.mark.parametrize("recompute, expected", [(True, RecomputeSession), (False, StreamingSession)])
def test_a_model_of_pairs_streams_either_way(model_of, byte_level, recompute, expected):
    decision = Decision.from_dict({"policy": "wait_k", "k": 4, "recompute": recompute})
    session = open_session(model_of("llama", VOCAB, 0), encoder_of(byte_level, **WAIT_2), decision)
    assert type(session) is expected
    drive(session, ["abc", "the", "dog"])
    assert session.counters.written_tokens > 0


def test_an_evaluation_takes_a_model_of_pairs(model_of, byte_level, tmp_path, capsys):
    settings_of(**WAIT_2).save(tmp_path)
    model_of("llama", VOCAB, 0).config.save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    (tmp_path / "text").write_text("a b\n")
    keys = {"model": str(tmp_path), "output": str(tmp_path / "out"), "simulmask": {"prefix_pairs": True}}
    keys |= {side: str(tmp_path / "text") for side in ("source", "target")}
    keys["policies"] = [{"policy": "wait_k", "k": 3, "recompute": recompute} for recompute in (True, False)]
    (tmp_path / "eval.yaml").write_text(json.dumps(keys))
    assert check_evaluation(load_evaluation(tmp_path / "eval.yaml")).config.prefix_pairs
    assert main(["validate", str(tmp_path / "eval.yaml")]) == 0
    assert "wait_k-3-recompute, wait_k-3" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "eval.yaml").write_text(json.dumps(keys | {"simulmask": {"prefix_pairs": False}}))
    with pytest.raises(ValueError, match="prefix_pairs is False, but the model was trained with True"):
        check_evaluation(load_evaluation(tmp_path / "eval.yaml"))


def test_a_policy_of_inference_does_not_ask_for_other_pairs():
    assert settings_of(**WAIT_2).inference_policy("read_n", n=3)(1) == make_policy("read_n", n=3)(1)


# Data


def test_a_row_too_long_is_left_out_with_all_its_pairs(byte_level):
    encoder = encoder_of(byte_level, **WAIT_2)
    rows = [row("a b c", "x y z"), row("a b", "x")]
    lengths = [len(feature["input_ids"]) for feature in processed(encoder, *rows)]
    assert len(lengths) == 3
    assert lengths[1] == max(lengths)
    whole, without_the_first = (processed(encoder, *rows, cutoff_len=lengths[1] - less) for less in (0, 1))
    assert [len(feature["input_ids"]) for feature in whole] == lengths
    assert [len(feature["input_ids"]) for feature in without_the_first] == lengths[2:]


def test_rows_are_counted_by_their_first_pairs(byte_level):
    features = processed(encoder_of(byte_level, **WAIT_2), row("a b c d e", "v w x y z"), row("a", "x"))
    columns = {name: [feature[name] for feature in features] for name in FEATURE_COLUMNS}
    assert (count_rows(columns), count_rows(Dataset.from_dict(columns)), len(features)) == (2, 2, 5)


def test_a_source_without_units_travels_through_a_dataset(byte_level):
    encoder = encoder_of(byte_level, policy="schedule", **PAIRS)
    features = processed(encoder, row("a b", "x y z", [0, 1, 1]))
    collator = SimulMaskCollator(encoder.settings, pad_token_id=0)
    direct, stored = (collator(list(one)) for one in (features, Dataset.from_list(features)))
    assert all(torch.equal(direct[name], stored[name]) for name in direct)
    assert features[0]["source_lengths"] == []


# Commands and LLaMA-Factory


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training YAML over two rows, of 3 pairs (g = 1 2 3) and of 1 (g = 1 1 1 1)."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        path = write_setup(folder, simulmask={"policy": "wait_k", "k": 1, **PAIRS}, template="empty")
        rows = [{"source": "ein haus am see", "target": "a house"}, {"source": "zwei", "target": "two of them"}]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield path


@llama_factory
@pytest.mark.parametrize(
    "cutoff_len, num_pairs, said",
    [
        (256, 4, ["2 sentence pairs became 4 prefix pairs."]),
        (
            77,
            1,
            [
                "1 of 2 examples are longer than cutoff_len 77 and were dropped; raise cutoff_len to keep them.",
                "1 sentence pairs became 1 prefix pairs.",
            ],
        ),
    ],
)
def test_llama_factory_loads_the_pairs_and_says_how_many(training, monkeypatch, cutoff_len, num_pairs, said):
    from llamafactory.data import get_template_and_fix_tokenizer, loader

    from simulmask_plugin.training_setup import load_training

    setup = load_training(str(training), [f"cutoff_len={cutoff_len}"])
    workflow = import_module("llamafactory.train.sft.workflow")
    template, messages = get_template_and_fix_tokenizer(setup.tokenizer, setup.data_args), []
    for level in ("info_rank0", "warning_rank0"):
        monkeypatch.setattr(loader.logger, level, messages.append, raising=False)
    with factory._seams_replaced(workflow, setup.settings.config, 0, flat=False):
        arguments = setup.model_args, setup.data_args, setup.training_args
        dataset = workflow.get_dataset(template, *arguments, stage="sft", tokenizer=setup.tokenizer)["train_dataset"]
    assert len(dataset) == num_pairs
    assert [message.removeprefix("simulmask: ") for message in messages if message.startswith("simulmask: ")] == said


@llama_factory
def test_validate_says_how_many_pairs_the_first_row_becomes(training, capsys):
    assert main(["validate", str(training)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for text in (
        "rows prefix pairs: every WRITE is plain causal text of its own",
        "rows.jsonl source, target 2 78 0",
        "First example: wait_k k=1 | layout prefix | prefix pairs | positions contiguous",
        "g(1..T+1) = 1 2 3",
        "prefix pairs: 3, one per WRITE; this is the last and longest",
    ):
        assert text in output
    assert main(["validate", str(training), "cutoff_len=77"]) == 0
    assert "rows.jsonl source, target 2 76 1 (dropped)" in " ".join(capsys.readouterr().out.split())


@llama_factory
def test_show_draws_the_longest_pair(training, capsys):
    assert main(["show", str(training), "--json", "--k", "2"]) == 0
    picture = json.loads(capsys.readouterr().out)
    assert picture["schedule"] == [2, 3, 4]
    assert "".join(picture["tokens"]).endswith("German: ein haus am see\nAssistant: a house</s>")
    assert np.flatnonzero(np.array(picture["labels"]) != IGNORED).tolist() == [len(picture["labels"]) - 1]
    length = len(picture["mask"])
    assert picture["mask"] == ["1" * (i + 1) + "0" * (length - i - 1) for i in range(length)]
    assert main(["show", str(training)]) == 0
    assert "prefix pairs: 3, one per WRITE; this is the last and longest" in " ".join(capsys.readouterr().out.split())


@llama_factory
def test_parity_of_a_training_yaml_with_pairs(training, capsys):
    assert main(["parity", "--json", str(training), "--examples", "1"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["policy"] for cell in cells] == ["wait_k"] * 4 + ["read_n", "offline", "schedule"]
    assert all(cell["promised"] and cell["holds"] and cell["max_logit"] > 1 for cell in cells)


def test_attention_has_no_whole_sentence_to_compare(model_of, byte_level):
    model, encoder = model_of("llama", VOCAB, 0, "eager"), encoder_of(byte_level, **WAIT_2)
    with pytest.raises(ValueError, match="trained with prefix_pairs: true, which has none; `simulmask parity --model`"):
        compare_attention(model, encoder, Row("a b", "x y", None, None), make_policy("wait_k", k=2))


# The block

REFUSED = {
    "no boolean": ({**WAIT_2, "prefix_pairs": "yes"}, r"prefix_pairs must be true or false, got 'yes'"),
    "a number": ({**WAIT_2, "prefix_pairs": 1}, r"prefix_pairs must be true or false, got 1"),
    "list of k": ({**WAIT_2, "k": [1, 3]}, r"simulmask\.k: the list 1, 3 does not go with prefix_pairs.*; set one k"),
    "range of k": ({**WAIT_2, "k": "2-4"}, r"simulmask\.k: the list 2, 3, 4 does not go .*; set one k"),
    "group": (
        {**WAIT_2, "positions": "group"},
        r"positions: group does not go with prefix_pairs: true, .*; set positions: contiguous or remove prefix_pairs",
    ),
    "default positions": (
        {"policy": "offline", "prefix_pairs": True},
        r"positions: group does not go with prefix_pairs: true",
    ),
    "modified_alibi": (
        {**WAIT_2, "positions": "modified_alibi"},
        r"positions: modified_alibi does not go with prefix_",
    ),
    "turns": (
        {**WAIT_2, "layout": "turns"},
        r"layout: turns does not go with prefix_pairs: true.*; set layout: prefix",
    ),
    "slots": ({**WAIT_2, "layout": "slots", "positions": "slots"}, r"layout: slots does not go with prefix_pairs"),
    "interleaved": ({"layout": "interleaved", "prefix_pairs": True}, r"layout: interleaved does not go with prefix_"),
    "rows": ({**WAIT_2, "rows": "own_unit"}, r"simulmask\.rows has no meaning with prefix_pairs: true; remove it"),
    "rate": ({**WAIT_2, "look_ahead_rate": 0.5}, r"look_ahead_rate has no meaning with prefix_pairs: true; remove it"),
}


@pytest.mark.parametrize(("block", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_with_pairs_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        SimulMaskConfig.from_dict(block)


@pytest.mark.parametrize("policy", POLICIES)
def test_simulmask_json_carries_the_key(tmp_path, policy):
    settings = settings_of(**POLICIES[policy], **PAIRS)
    settings.save(tmp_path)
    assert ModelSettings.load(tmp_path) == settings
    assert json.loads((tmp_path / "simulmask.json").read_text())["config"]["prefix_pairs"] is True


def test_a_schedule_column_is_needed_and_checked(byte_level):
    config = settings_of(policy="schedule", **PAIRS).config
    values = dict.fromkeys(training_data.COLUMNS) | {"source": "a b", "target": "x y"}
    with pytest.raises(ValueError, match="policy: schedule needs a column `schedule` in the data"):
        row_of(values, config)
    with pytest.raises(ValueError, match=r"here: g must never decrease, got g\(1\)=2 > g\(2\)=1"):
        processed(encoder_of(byte_level, policy="schedule", **PAIRS), row("a b", "x y", [2, 1]))
