"""The session of chunks: what it feeds, who decides, when it writes and stops."""

import math

import pytest
from driving import HEADER, PROMPT, Asks, Calls, actions_of, assert_holds, drive, encoder_of, parity

from simulmask_plugin.batches.features import Row
from simulmask_plugin.policies import Action, ModelDriven
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.text.prompts import READ_END, WRITE_END

VOCAB = 320
INTERLEAVED = {"layout": "interleaved"}
TURNS = {"layout": "turns", "policy": "wait_k", "k": 1}


class Script(ChunkChooser):
    """Ends the read after the given numbers of asked units, and writes the given texts."""

    def __init__(self, tokenizer, *texts, ends_after=()):
        self.left = tokenizer.convert_tokens_to_ids(list(texts))
        self.ends_after, self.num_asked = ends_after, 0

    def ends_read(self, evidence):
        self.num_asked += 1
        return self.num_asked in self.ends_after

    def next_token(self, logits, *, opens_word):
        return self.left.pop(0)


def session_of(model, encoder, policy=None, **options):
    config = encoder.settings.config
    policy = policy or config.layout.streamed_policy(config.policies[0])
    if isinstance(policy, ModelDriven) and "chooser" in options:
        policy = Asks(answer=options["chooser"].ends_read)
    return ChunkedSession(model=model, encoder=encoder, policy=policy, **options)


@pytest.fixture(scope="session")
def llama(model_of):
    return model_of("llama", VOCAB, 0)


# What is fed

NEXT_HEADER = ["\n", "U", "s", ":"]
R, W = READ_END, WRITE_END
SCRIPT = ["Ġcat", WRITE_END, "Ġabc", "Ġxyz", WRITE_END]


def test_golden_calls_of_interleaved(llama, with_ends):
    """After every unit one call asks for the read end; the token that ends a WRITE is fed with what is read next."""
    encoder = encoder_of(with_ends, **INTERLEAVED)
    session = session_of(llama, encoder, chooser=Script(with_ends, *SCRIPT, ends_after=(2,)))
    with Calls(llama, with_ends) as calls:
        written = drive(session, "the dog house".split())
    assert written == ["cat", "abc xyz"]
    assert calls == [
        [*PROMPT, *HEADER, " the"],
        [" dog"],
        [R],
        [" cat"],
        [W, " ho", "use", R],
        [" abc"],
        [" xyz"],
    ]
    assert session.counters.calls == len(calls)
    assert session.counters.fed_tokens == sum(map(len, calls))
    assert session.counters.written_tokens == 3
    assert (session.num_read, session.num_written) == (3, 3)


def test_golden_calls_of_turns(llama, with_ends):
    """The policy is no model: it costs no call. The rest of a turn's header is fed with what is read next."""
    encoder = encoder_of(with_ends, **TURNS | {"k": 2})
    session = session_of(llama, encoder, chooser=Script(with_ends, "Ġcat", "Ċ", "Ġabc", "Ġxyz", "<eos>"))
    with Calls(llama, with_ends) as calls:
        written = drive(session, "the dog abc".split())
    assert written == ["cat", "abc xyz"]
    assert calls == [
        [*PROMPT, " the", " dog", *HEADER],
        [" cat"],
        [*NEXT_HEADER, " abc", *HEADER],
        [" abc"],
        [" xyz"],
    ]


def test_source_that_is_all_there_is_one_chunk(llama, with_ends):
    session = session_of(llama, encoder_of(with_ends, **INTERLEAVED), chooser=Script(with_ends, "Ġcat", WRITE_END))
    with Calls(llama, with_ends) as calls:
        assert drive(session, "the dog".split(), ahead=True) == ["cat"]
    assert calls == [[*PROMPT, *HEADER, " the", " dog", R], [" cat"]]


# Who decides


@pytest.fixture
def changed(model_of):
    """Makes a model whose logits go through a function that changes them in place."""
    hooks = []

    def make(change):
        model = model_of("llama", VOCAB, 5)
        hooks.append(model.register_forward_hook(lambda module, args, output: change(output.logits)))
        return model

    yield make
    for hook in hooks:
        hook.remove()


@pytest.fixture
def inclined(changed, with_ends):
    """Makes a model that likes or dislikes tokens."""

    def make(pieces, bias):
        tokens = with_ends.convert_tokens_to_ids(pieces)

        def add(logits):
            logits[..., tokens] += bias

        return changed(add)

    return make


def test_model_that_always_ends_the_read_writes_after_every_word(inclined, with_ends):
    session = session_of(inclined([READ_END], 99.0), encoder_of(with_ends, **INTERLEAVED), max_target_tokens=10**6)
    assert actions_of(session, "the dog abc".split()) == "RWRWRW"
    assert with_ends.convert_tokens_to_ids(READ_END) not in session.target_ids


def test_policy_sees_the_tokens_and_the_end_of_read(llama, with_ends):
    """Not the rows beyond the tokenizer: models pad their vocabulary."""
    seen = []
    session = session_of(llama, encoder_of(with_ends, **INTERLEAVED), Asks(answer=seen.append))
    session.read("the")
    assert session.action() is Action.READ
    assert seen[0].logits.shape == (len(with_ends),)
    assert seen[0].read_end == with_ends.convert_tokens_to_ids(READ_END)


def test_end_of_source_is_a_write_whatever_the_model_says(inclined, with_ends):
    session = session_of(inclined([READ_END], -99.0), encoder_of(with_ends, **INTERLEAVED))
    assert actions_of(session, "the dog abc".split()) == "RRRW"


def test_threshold_of_the_session_replaces_the_one_of_the_settings(llama, with_ends):
    encoder = encoder_of(with_ends, **INTERLEAVED, read_threshold=0.999)
    for keys, actions in (({}, "RRRW"), ({"read_threshold": 1e-9}, "RWRWRW")):
        assert actions_of(open_session(llama, encoder, Decision.from_dict(keys)), "the dog abc".split()) == actions


@pytest.mark.parametrize("probability, actions", [(0.45, "RRRW"), (0.55, "RWRWRW")])
def test_loss_on_the_target_asks_for_one_half(changed, with_ends, probability, actions):
    """Other tokens mean nothing where the source has no loss, though each is less likely; a WRITE ends at once."""
    read_end = with_ends.convert_tokens_to_ids(READ_END)

    def replace(logits):
        logits[:] = math.log((1 - probability) / (len(with_ends) - 1))
        logits[..., read_end] = math.log(probability)

    encoder = encoder_of(with_ends, **INTERLEAVED, loss_on="target")
    assert actions_of(session_of(changed(replace), encoder), "the dog abc".split()) == actions


def test_beam_of_no_hypotheses_is_refused(llama, with_ends):
    with pytest.raises(ValueError, match="beam_width must be at least 1, got 0"):
        session_of(llama, encoder_of(with_ends, **INTERLEAVED), beam_width=0)


@pytest.mark.parametrize("k, expected", [(1, "RWRWRW"), (2, "RRWRW"), (9, "RRRW")])
def test_turns_follow_the_policy(llama, with_ends, k, expected):
    encoder = encoder_of(with_ends, **TURNS | {"k": k})
    script = Script(with_ends, *["Ġcat", "Ċ"] * 3)
    assert actions_of(session_of(llama, encoder, chooser=script), "the dog abc".split()) == expected


# When a WRITE ends


@pytest.mark.parametrize("end", [WRITE_END, "<eos>"])
def test_write_ends_at_the_write_end_and_at_the_end_of_sentence(llama, with_ends, end):
    """While the source goes on, what is fed is the write end in both cases."""
    script = Script(with_ends, "Ġcat", "Ġabc", end, "Ġdog", end, ends_after=(1,))
    session = session_of(llama, encoder_of(with_ends, **INTERLEAVED), chooser=script)
    assert drive(session, ["the", "dog"]) == ["cat abc", "dog"]
    assert with_ends.decode(session.lane.fed_ids) == f"Tr:\nAs: the{R} cat abc{W} dog{R} dog"
    assert not session.truncated


def test_chunk_may_be_empty(llama, with_ends):
    script = Script(with_ends, WRITE_END, "og", WRITE_END, ends_after=(1,))
    session = session_of(llama, encoder_of(with_ends, **INTERLEAVED), chooser=script)
    session.read("the")
    assert session.write() is None
    assert not session.finished
    session.read("dog")
    session.finish_source()
    assert session.write() == "og"
    assert session.finished


@pytest.mark.parametrize("first_is_empty", [True, False])
def test_first_word_of_all_may_begin_with_anything(llama, with_ends, first_is_empty):
    """An empty chunk leaves the first word to the next; after a first word every chunk opens one."""
    asked = []

    class Spy(Script):
        def next_token(self, logits, *, opens_word):
            asked.append(opens_word)
            return super().next_token(logits, opens_word=opens_word)

    texts = [WRITE_END] if first_is_empty else ["Ġcat", WRITE_END]
    script = Spy(with_ends, *texts, "Ġdog", WRITE_END, ends_after=(1,))
    drive(session_of(llama, encoder_of(with_ends, **INTERLEAVED), chooser=script), ["the", "dog"])
    assert asked == ([False, False, False] if first_is_empty else [False, False, True, False])


@pytest.mark.parametrize("num_units", [1, 3])
@pytest.mark.parametrize("beam_width", [1, 2])
def test_guard_ends_a_write_that_does_not_end(inclined, with_ends, num_units, beam_width):
    """2 * (units + 25) tokens; what was written last is still fed, and the session goes on."""
    model = inclined([WRITE_END, "<eos>"], -99.0)
    session = session_of(model, encoder_of(with_ends, **INTERLEAVED), beam_width=beam_width, max_target_tokens=10**6)
    for _ in range(num_units):
        session.read("the")
    session.write()
    assert len(session.target_ids) == 2 * (num_units + 25)
    session.read("dog")
    session.action()
    before = len(encoder_of(with_ends, **INTERLEAVED).frame(None, None)[0])
    start = before + num_units + 1
    assert session.lane.fed_ids[start : start + len(session.target_ids)] == session.target_ids
    assert with_ends.decode(session.lane.fed_ids[-2:]) == f"{W} dog"


@pytest.mark.parametrize("block", [INTERLEAVED, TURNS], ids=["interleaved", "turns"])
def test_empty_source_writes_nothing(llama, with_ends, block):
    session = session_of(llama, encoder_of(with_ends, **block))
    session.finish_source()
    assert session.action() is Action.WRITE
    assert session.write() is None
    assert session.finished
    assert session.counters.calls == 0


@pytest.mark.parametrize("block", [INTERLEAVED, TURNS], ids=["interleaved", "turns"])
def test_source_that_ends_after_its_last_chunk_has_nothing_more_to_write(llama, with_ends, block):
    """SimulEval may tell the end later than the last word."""
    end = WRITE_END if block is INTERLEAVED else "Ċ"
    script = Script(with_ends, "Ġcat", end, ends_after=(1,))
    session = session_of(llama, encoder_of(with_ends, **block), chooser=script)
    session.read("the")
    assert session.action() is Action.WRITE
    assert session.write() == "cat"
    assert session.action() is Action.READ
    session.finish_source()
    assert session.action() is Action.WRITE
    assert session.write() is None
    assert session.finished
    assert not session.truncated


@pytest.mark.parametrize(("block", "num_asked"), [(INTERLEAVED, 3), (TURNS, 0)], ids=["interleaved", "turns"])
def test_parity_compares_every_row_that_predicts(llama, with_ends, block, num_asked):
    """Target tokens and ends of chunks; in interleaved also the read ends, but for that of the whole source."""
    row = Row("abc the dog xyz", "cat abcde ab xyz", "English", "German", (2, 2, 3, 3, 4))
    block = block if block is INTERLEAVED else {"layout": "turns", "policy": "schedule"}
    result = parity(llama, with_ends, [row], block)
    assert_holds(result)
    assert result.rows == sum(encoder_of(with_ends, **block).encode(row).target_lengths) + 3 + num_asked
