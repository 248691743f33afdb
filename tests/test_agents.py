"""The SimulEval agent, without SimulEval's loop."""

from argparse import ArgumentParser

import pytest
from reference import settings_of
from simuleval.data.segments import TextSegment

from simulmask_plugin.agents import SimulMaskAgent
from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.text.units import UnitTokenizer


def parse(model, *options):
    parser = ArgumentParser()
    SimulMaskAgent.add_args(parser)
    args = parser.parse_args(["--model", str(model), *options])
    args.device = "cpu"
    args.eval_latency_unit = "word"
    return args


def test_gemma_2_is_streamed_with_the_soft_capping_of_training(model_of, byte_level, tmp_path):
    """Only eager attention caps the scores of Gemma 2, in training and in streaming."""
    model_of("gemma2", len(byte_level), 0).save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    settings_of(policy="wait_k", k=3).save(tmp_path)
    assert SimulMaskAgent(parse(tmp_path)).model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="Attention 'sdpa' cannot take .* for gemma2; expected eager"):
        SimulMaskAgent(parse(tmp_path, "--attn-implementation", "sdpa"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--document-units", "0"], "document_units must be an integer of at least 1 and at most 10000, got 0"),
        (["--context-sentences", "1"], "context_sentences is 1, but without document_units every line is one sentence"),
        (["--document-units", "5", "--latency", "low", "--beam-width", "0"], "beam_width must be an integer of at le"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options, message):
    settings_of(layout="interleaved").save(tmp_path)
    with pytest.raises(ValueError, match=message):
        SimulMaskAgent(parse(tmp_path, *options))


def test_document_units_need_a_layout_of_chunks(tmp_path):
    settings_of(policy="wait_k", k=3).save(tmp_path)
    with pytest.raises(ValueError, match="document_units needs a model of layout: interleaved or turns"):
        SimulMaskAgent(parse(tmp_path, "--document-units", "20"))


def test_families_that_train_without_sdpa_stream_without_it():
    assert {name for name, family in FAMILIES.items() if family.attention == "eager"} == {"gemma2", "bloom", "mpt"}


@pytest.mark.parametrize(
    ("latency_unit", "target", "expected"),
    [
        # at wait-1 of tokens every source word brings a token of the target; a word is sent when the next one begins
        ("word", "xq d", ["", "", "xq", "d"]),
        ("char", "\N{CJK UNIFIED IDEOGRAPH-4F60}好", ["", "", "\N{CJK UNIFIED IDEOGRAPH-4F60}", "好"]),
    ],
)
def test_a_model_that_writes_tokens_sends_whole_words(model_of, byte_level, tmp_path, latency_unit, target, expected):
    model_of("llama", len(byte_level), 0).save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    settings_of(policy="wait_k", k=1, target_units="token", rows="query_unit").save(tmp_path)
    options = parse(tmp_path)
    options.eval_latency_unit = latency_unit
    agent = SimulMaskAgent(options)
    ids = [i for unit in agent.encoder.target.encode_all(target, spaced=False) for i in unit]
    agent.session.choose = lambda logits, index, opening: [*ids, byte_level.eos_token_id][index]
    source = ["a", "b", "c", "d"]
    sent = [agent.pushpop(TextSegment(content=word, finished=word == source[-1])).content for word in source]
    assert [text or "" for text in sent] == expected


@pytest.mark.parametrize("units", ["character", "token"])
@pytest.mark.parametrize("k", [1, 9])
def test_spaces_between_runs_survive_where_simuleval_counts_characters(model_of, byte_level, tmp_path, units, k):
    """SimulEval deletes plain spaces there, and the reference that it counts has them."""
    model_of("llama", len(byte_level), 0).save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    settings_of(policy="wait_k", k=k, target_units=units).save(tmp_path)
    options = parse(tmp_path)
    options.eval_latency_unit = "char"
    agent = SimulMaskAgent(options)
    target = "我用iPhone 15 Pro。 是"
    encode = UnitTokenizer(byte_level, "character" if units == "character" else "word").encode_all
    ids = [i for unit in encode(target, spaced=False) for i in unit]
    agent.session.choose = lambda logits, index, opening: [*ids, byte_level.eos_token_id][index]
    source = [*"abcdefghi", *"abcdefghi", *"abcdefghi", *"abcdefghi"]
    sent = [agent.pushpop(TextSegment(content=word, finished=i == len(source) - 1)) for i, word in enumerate(source)]
    prediction = "".join((one.content or "").replace(" ", "") for one in sent)  # as SimulEval joins it
    assert prediction.replace("\N{NO-BREAK SPACE}", " ") == "我用iPhone 15 Pro。是"
