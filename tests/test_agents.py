"""The SimulEval agent, without SimulEval's loop."""

import json

import pytest
from driving import agent_of, write_model
from reference import settings_of
from simuleval.data.segments import TextSegment

from simulmask_plugin.text.units import UnitTokenizer


@pytest.mark.parametrize("name", ["gemma2", "bloom", "mpt"])
def test_families_that_train_without_sdpa_stream_without_it(model_of, byte_level, tmp_path, name):
    """Only eager attention caps the scores of Gemma 2, and takes our mask with the ALiBi of BLOOM and MPT."""
    write_model(tmp_path, model_of(name, len(byte_level), 0), byte_level, settings_of(policy="wait_k", k=3))
    agent = agent_of(tmp_path, "--max-target-tokens", "5")
    assert agent.pushpop(TextSegment(content="a", finished=True)).finished
    assert agent.model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match=f"Attention 'sdpa' cannot take .* for {name}; expected eager"):
        agent_of(tmp_path, "--attn-implementation", "sdpa")


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
        agent_of(tmp_path, *options)


def test_document_units_need_a_layout_of_chunks(tmp_path):
    settings_of(policy="wait_k", k=3).save(tmp_path)
    with pytest.raises(ValueError, match="document_units needs a model of layout: interleaved or turns"):
        agent_of(tmp_path, "--document-units", "20")


@pytest.mark.parametrize(
    ("latency_unit", "target", "expected"),
    [
        # at wait-1 of tokens every source word brings a token of the target; a word is sent when the next one begins
        ("word", "xq d", ["", "", "xq", "d"]),
        ("char", "\N{CJK UNIFIED IDEOGRAPH-4F60}好", ["", "", "\N{CJK UNIFIED IDEOGRAPH-4F60}", "好"]),
    ],
)
def test_a_model_that_writes_tokens_sends_whole_words(model_of, byte_level, tmp_path, latency_unit, target, expected):
    write_model(
        tmp_path,
        model_of("llama", len(byte_level), 0),
        byte_level,
        settings_of(policy="wait_k", k=1, target_units="token", rows="query_unit"),
    )
    agent = agent_of(tmp_path, latency_unit=latency_unit)
    ids = [i for unit in agent.encoder.target.encode_all(target, spaced=False) for i in unit]
    agent.session.choose = lambda logits, index, opening: [*ids, byte_level.eos_token_id][index]
    source = ["a", "b", "c", "d"]
    sent = [agent.pushpop(TextSegment(content=word, finished=word == source[-1])).content for word in source]
    assert [text or "" for text in sent] == expected


@pytest.mark.parametrize("units", ["character", "token"])
@pytest.mark.parametrize("k", [1, 9])
def test_spaces_between_runs_survive_where_simuleval_counts_characters(model_of, byte_level, tmp_path, units, k):
    """SimulEval deletes plain spaces there, and the reference that it counts has them."""
    write_model(
        tmp_path,
        model_of("llama", len(byte_level), 0),
        byte_level,
        settings_of(policy="wait_k", k=k, target_units=units),
    )
    agent = agent_of(tmp_path, latency_unit="char")
    target = "我用iPhone 15 Pro。 是"
    encode = UnitTokenizer(byte_level, "character" if units == "character" else "word").encode_all
    ids = [i for unit in encode(target, spaced=False) for i in unit]
    agent.session.choose = lambda logits, index, opening: [*ids, byte_level.eos_token_id][index]
    source = [*"abcdefghi", *"abcdefghi", *"abcdefghi", *"abcdefghi"]
    sent = [agent.pushpop(TextSegment(content=word, finished=i == len(source) - 1)) for i, word in enumerate(source)]
    prediction = "".join((one.content or "").replace(" ", "") for one in sent)  # as SimulEval joins it
    assert prediction.replace("\N{NO-BREAK SPACE}", " ") == "我用iPhone 15 Pro。是"


def test_agent_traces_every_sentence(model_of, byte_level, tmp_path):
    settings = settings_of(policy="wait_k", k=2)
    write_model(tmp_path, model_of("llama", len(byte_level), 0), byte_level, settings)
    agent = agent_of(tmp_path, "--max-target-tokens", "5", "--trace-log", str(tmp_path / "trace.jsonl"))
    for words in (["a", "dog"], ["the", "dog", "abc"]):
        for word in words:
            agent.pushpop(TextSegment(content=word, finished=word == words[-1]))
        agent.reset()
    first, second = (json.loads(line)["steps"] for line in (tmp_path / "trace.jsonl").read_text().splitlines())
    for steps, words in ((first, ["a", "dog"]), (second, ["the", "dog", "abc"])):
        assert [step["text"] for step in steps if step["action"] == "READ"] == words
        assert [step["g"] for step in steps][:3] == [1, 2, 2] and steps[2]["action"] == "WRITE"
        times = [step["time"] for step in steps]
        assert times == sorted(times) and times[0] >= 0
