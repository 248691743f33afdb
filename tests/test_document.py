"""A text of many sentences in constant memory: what stays visible, and where it stands."""

import pytest
import torch
from driving import Asks, encoder_of

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.policies import Action, ModelDriven
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.document import Document
from simulmask_plugin.streaming.lane import POSITION
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.text.prompts import READ_END, WRITE_END, Prompt

VOCAB = 320
INTERLEAVED = {"layout": "interleaved"}
TURNS = {"layout": "turns", "policy": "wait_k", "k": 2}
SENTENCES = ["the dog cat.", "abc abd? ", "xyz cd the abc house!", "a b.", "dexyz the dog (abc).", "cd cd."]


class Echo(ChunkChooser):
    """Reads to the end of a sentence, and writes tokens that the logits choose, so many in every chunk."""

    def __init__(self, encoder, length):
        self.encoder, self.length, self.left = encoder, length, length
        *_, self.ends = (ids[0] for ids in encoder.frame(None, None))

    def ends_read(self, evidence):
        return False

    def next_token(self, logits, *, opens_word):
        self.left -= 1
        if self.left < 0:
            self.left = self.length
            return self.ends
        logits = logits[:250].clone()  # no special token, and not what ends the chunk
        logits[:10] = logits[self.ends : self.ends + 1] = -torch.inf
        return int(logits.argmax())


class EveryThird(Echo):
    """Ends the read after every third word that it is asked about."""

    asked = 0

    def ends_read(self, evidence):
        self.asked += 1
        return self.asked % 3 == 0


def document_session(model, encoder, document, length=4, **options):
    return echoing_session(model, encoder, Echo(encoder, length), document=document, **options)


def echoing_session(model, encoder, chooser, **options):
    (policy,) = encoder.settings.config.policies
    if isinstance(policy, ModelDriven):
        policy = Asks(answer=chooser.ends_read)
    return ChunkedSession(model=model, encoder=encoder, policy=policy, chooser=chooser, **options)


def stream(session, text, *, is_last=True):
    """Stream words; returns what was written."""
    written, words = [], text.split()
    while words or session.action() is Action.WRITE:
        if session.action() is Action.READ:
            session.read(words.pop(0))
            if not words and is_last:
                session.finish_source()
        else:
            written.append(session.write())
            if session.finished:
                break
    return written


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize("context_sentences", [0, 2])
def test_memory_of_a_long_document_is_flat(model_of, with_ends, name, context_sentences):
    """200 sentences: after the first few, the cache is as long after every sentence."""
    model, encoder = model_of(name, VOCAB, 0), encoder_of(with_ends, **INTERLEAVED)
    session = document_session(model, encoder, Document(min_units=1, context_sentences=context_sentences))
    sizes = []
    for _ in range(200):
        assert stream(session, "the dog abc.", is_last=False) != []
        sizes.append(session.lane.num_keys)
    assert len(set(sizes[context_sentences + 1 :])) == 1
    assert sizes[-1] < 80
    assert len(session.lane.fed_ids) == session.lane.num_keys
    assert session.lane.cache.layers[0].keys.shape[2] == session.lane.keys.shape[1] == 256
    assert not session.truncated
    assert len(session.target_ids) == 800 > 512


def test_memory_is_bounded_where_no_write_meets_the_end_of_a_sentence(model_of, with_ends):
    """A WRITE after every third word of sentences of five; then the first WRITE behind the end of one is its end."""

    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = echoing_session(model_of("llama", VOCAB, 0), encoder, EveryThird(encoder, 2), document=Document())
    sizes = []
    for _ in range(100):
        assert stream(session, "the dog abc cat xyz.", is_last=False) != []
        sizes.append(session.lane.num_keys)
    assert max(sizes[50:]) == max(sizes[:50]) < 80


@pytest.mark.parametrize("name", ["llama", "falcon", "qwen3", "mpt"])
@pytest.mark.parametrize("block", [INTERLEAVED, TURNS], ids=["interleaved", "turns"])
def test_without_context_every_sentence_is_alone(model_of, with_ends, name, block):
    """Its logits are those of a session of its own; so are its decisions, where a policy counts."""
    model, encoder = model_of(name, VOCAB, 0), encoder_of(with_ends, **block)
    rows = {}
    session = document_session(model, encoder, Document(min_units=1), trace=rows.__setitem__)
    for number, sentence in enumerate(SENTENCES, start=1):
        rows.clear()
        is_last = number == len(SENTENCES)
        start = session._place - (len(session._prompt) if number == 1 else 0)
        written = stream(session, sentence, is_last=is_last)
        alone = {}
        own = document_session(model, encoder, Document(min_units=1), trace=alone.__setitem__)
        assert stream(own, sentence, is_last=is_last) == written
        first = start if number == 1 else start - len(own._prompt)
        assert [place - first for place in rows] == list(alone)
        assert len(alone) >= 5
        for (place, logits), (_, expected) in zip(rows.items(), alone.items(), strict=True):
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0, msg=f"row {place} of sentence {number}")


def test_without_context_every_sentence_begins_as_the_first(model_of, with_ends):
    """No white space before its first word, where none stands behind the prompt; its translation may open anyhow."""
    settings = ModelSettings(SimulMaskConfig.from_dict(INTERLEAVED), Prompt("Tr:\n", READ_END, WRITE_END))
    encoder, asked = ExampleEncoder(with_ends, settings), []

    class Spy(Echo):
        def next_token(self, logits, *, opens_word):
            asked.append(opens_word)
            return super().next_token(logits, opens_word=opens_word)

    session = document_session(model_of("llama", VOCAB, 0), encoder, Document(min_units=1))
    session._choose = Spy(encoder, 2)
    for _ in range(2):
        asked.clear()
        stream(session, "the dog.", is_last=False)
        assert asked == [False] * 3
    session.read("abc")
    session.action()
    assert with_ends.decode(session.lane.kept_ids()) == "Tr:\nabc"


# A window, with a model of one layer: its states do not remember what has left the cache.

LAYERS = {"llama": "num_hidden_layers", "falcon": "num_hidden_layers", "mpt": "n_layers", "qwen3": "num_hidden_layers"}


def window_of(encoder, written, context, current):
    """Token ids of [prompt][context sentences][current sentence so far]."""
    prompt, read_end, write_end = encoder.frame(None, None)
    ids = list(prompt)
    for sentence in context:
        ids += written[sentence]["source"] + read_end + written[sentence]["target"] + write_end
    return ids + written[current]["source"] + read_end + written[current]["target"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("context_sentences", [1, 2])
@pytest.mark.parametrize("block", [INTERLEAVED, {"layout": "turns", "policy": "offline"}], ids=["interleaved", "turns"])
def test_window_is_prompt_context_and_current_sentence(model_of, with_ends, name, context_sentences, block):
    model = model_of(name, VOCAB, 0, **{LAYERS[name]: 1} | ({"layer_types": None} if name == "qwen3" else {}))
    prepare(model)
    encoder = encoder_of(with_ends, **block)
    last_row = []
    session = document_session(
        model,
        encoder,
        Document(min_units=1, context_sentences=context_sentences),
        trace=lambda place, logits: last_row.append(logits),
    )
    written = []
    for number, sentence in enumerate(SENTENCES):
        start = len(session.target_ids)
        stream(session, sentence, is_last=False)
        source = []
        for i, word in enumerate(sentence.split()):
            source += encoder.source_units(word, before="x" * (number + i))[0]
        written.append({"source": source, "target": session.target_ids[start:]})
        context = range(max(0, number - context_sentences), number)
        ids = window_of(encoder, written, context, number)
        with torch.no_grad():
            expected = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(last_row[-1], expected, atol=1e-4, rtol=0, msg=f"after sentence {number}")
        wrong = window_of(encoder, written, range(max(0, number - context_sentences - 1), number), number)
        if wrong != ids:
            with torch.no_grad():
                other = model(torch.tensor([wrong]), use_cache=False).logits[0, -1]
            assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name, anew", [("llama", True), ("falcon", False)])
def test_prompt_stands_right_before_the_window(model_of, with_ends, name, anew):
    """RoPE: the window stays, and the prompt is fed anew before it; ALiBi: the window moves to the prompt."""
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = document_session(model_of(name, VOCAB, 0), encoder, Document(min_units=1, context_sentences=1))
    for sentence in SENTENCES:
        stream(session, sentence, is_last=False)
        lane, num_prompt = session.lane, len(session._prompt)
        stays = session._window.start
        session.read("abc")
        session.action()
        order = lane.keys[0, : lane.num_keys].argsort()
        positions = lane.keys[POSITION, : lane.num_keys][order]
        assert (positions[1:] - positions[:-1] == 1).all(), "positions have a gap"
        assert positions[0] == (stays - num_prompt if anew else 0)
        assert lane.kept_ids()[:num_prompt] == session._prompt
        session.read("cd.")
        session.action()
        session.write()
        assert lane.num_keys == len(lane.fed_ids) == (lane.keys[0, : lane.num_keys] >= 0).sum()


# Where sentences end


ENDS = ["dog.", "dog?", "dog!", 'dog."', "(dog.)", "狗。", "狗？」"]
OTHERS = ["dog", "dog,", "3.5", ".dog", '"dog"']


@pytest.mark.parametrize("word", [*ENDS, *OTHERS])
def test_sentence_ends_at_its_punctuation(model_of, with_ends, word):
    """There the model is not asked."""
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = document_session(model_of("llama", VOCAB, 0), encoder, Document(min_units=2))
    session.read("the")
    assert session.action() is Action.READ
    calls = session.counters.calls
    session.read(word)
    assert session.action() is (Action.WRITE if word in ENDS else Action.READ)
    assert session.counters.calls - calls == (word in OTHERS)


def test_sentence_leaves_with_the_first_write_behind_its_end(model_of, with_ends):
    """Which may come words later, here after the third."""
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = echoing_session(model_of("llama", VOCAB, 0), encoder, EveryThird(encoder, 2), document=Document())
    stream(session, "the dog. abc", is_last=False)
    assert session.lane.kept_ids() == session._prompt


def test_short_sentences_are_read_together(model_of, with_ends):
    """Punctuation ends a read only after enough units since the last WRITE; else the model is asked."""
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = document_session(model_of("llama", VOCAB, 0), encoder, Document(min_units=3))
    for word in ("a.", "b."):
        session.read(word)
        assert session.action() is Action.READ
    session.read("c.")
    assert session.action() is Action.WRITE
    session.write()
    for word in ("d.", "e."):
        session.read(word)
        assert session.action() is Action.READ


def test_without_a_document_punctuation_ends_nothing(model_of, with_ends):
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = echoing_session(model_of("llama", VOCAB, 0), encoder, Echo(encoder, 2), max_target_tokens=99)
    session.read("dog.")
    assert session.action() is Action.READ


def test_document_of_a_prefix_model_is_refused(model_of, with_ends):
    encoder = encoder_of(with_ends, policy="wait_k", k=3)
    with pytest.raises(ValueError, match="A document needs a model of layout: interleaved or turns, not prefix"):
        open_session(model_of("llama", VOCAB, 0), encoder, Decision.from_dict({}), document=Document())


def test_beams_leave_a_document_as_flat(model_of, with_ends):
    model, encoder = model_of("llama", VOCAB, 0), encoder_of(with_ends, **INTERLEAVED)
    policy = ModelDriven(read_threshold=1e-9)
    session = ChunkedSession(model=model, encoder=encoder, policy=policy, document=Document(1, 1), beam_width=3)
    for _ in range(6):
        stream(session, "the dog.", is_last=False)
        assert session.lane.num_keys < 400
        assert len(session.lane.fed_ids) == session.lane.num_keys
