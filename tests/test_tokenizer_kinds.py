"""Tokenizers of many families: what is trained on is what is streamed, and comes back as it went in."""

from dataclasses import replace

import pytest
from driving import assert_holds, encoder_of, parity
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, SENTENCES, tokenizer_of

from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.text.units import CHARACTER, TOKEN, WORD, NotEncodable, UnitTokenizer, join_units, split_units

TEXTS = [
    *SENTENCES,
    "Es sind 2 Hunde",
    "Er ist krank -",
    "10,000 3.5 1990er 2nd 30% x2 1",
    "https://example.org/?q=1&r=2#s a_b@c.de",
    "a\u00a0b c\u202fd\u3000e\tf",
    "e\u0301 cafe\u0301 a\u0308",
    "\u200bx y\u200b a\ufeffb \ufeffc",
    "- . , ! ? ' \" ( ) … — % $ # @ & * / \\ ~ ` ^ | [ ] { } < >",
    "\ufffd a\ufffd b",
    "▁ a▁b ▁▁c",
    "Ġorġ Ġ ħ",
    "I can't 'll we've 's",
    "A\u0000b \u0007c",
    "</s> <s> <unk> a</s>b",
    "ß ŉ ﬁ ① ㎏ Ⅳ",
]
scripts = st.sampled_from("aZé1 5-.,'\"—我们のデวั한국हि\u0301\u200d👩😀\ufffd€")


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_words_have_the_tokens_of_the_whole_sentence_and_come_back(kind, text, spaced):
    tokenizer = tokenizer_of(kind)
    units = UnitTokenizer(tokenizer, WORD)
    encoded = units.encode_all(text, spaced=spaced)
    ids = sum(encoded, [])
    before = "x" if spaced else "\n"
    normal = " ".join(split_units(text, WORD))
    whole = tokenizer.encode(before + " " * spaced + normal, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.encode(before, add_special_tokens=False) + ids == whole
    assert units.cut(ids) == encoded, "a session would find other units in these tokens"
    assert len(encoded) == len(split_units(text, WORD)) == units.count(ids)
    written = join_units([units.text(unit) for unit in encoded], WORD)
    assert written in (normal, units.text(ids)), "what is written is the text, or what the tokenizer makes of it"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_characters_are_cut_as_a_session_cuts_them_and_come_back(kind, text):
    units = UnitTokenizer(tokenizer_of(kind), CHARACTER)
    encoded = units.encode_all(text, spaced=False)
    cut = units.cut(sum(encoded, []))
    pieces = iter(encoded)
    for unit in cut:  # a unit of the session is one of the text, or several where a token holds a part of a character
        taken = next(pieces)
        while taken != unit:
            taken = taken + next(pieces)
    written = join_units([units.text(unit) for unit in cut], CHARACTER)
    expected = join_units(split_units(text, CHARACTER), CHARACTER)
    assert written in (expected, units.text(sum(encoded, [])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [WORD, CHARACTER, TOKEN])
@settings(max_examples=30)
@given(source=st.text(scripts, max_size=12), target=st.text(scripts, max_size=12))
def test_source_that_arrives_in_pieces_and_target_that_is_written_are_those_of_training(kind, unit, source, target):
    source, target = f"a {source}", f"b {target}"
    encoder = encoder_of(tokenizer_of(kind), policy="wait_k", k=1, source_units=unit, target_units=unit)
    example = encoder.encode(Row(source, target, None, None))
    arrived, before = [], ""
    for piece in split_units(source, unit):
        arrived += encoder.source_units(piece, before=before)
        before = piece
    trained_source, _, trained_target, _ = example.units()
    assert arrived == trained_source
    assert encoder.target.cut(sum(trained_target, [])) == trained_target


def test_units_are_counted_by_tokens_and_not_by_a_text_that_is_cleaned_up():
    """Llama 3's tokenizer decodes " ?" as "?" unless told not to, so that two words would be one."""
    tokenizer = tokenizer_of("llama3")
    text = "Bonjour ! Comment allez-vous ? Il a dit ' oui ' ."
    units = UnitTokenizer(tokenizer, WORD)
    ids = sum(units.encode_all(text, spaced=True), [])
    assert len(tokenizer.decode(ids).split()) < units.count(ids) == 12
    assert units.text(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_chunk_has_the_units_that_training_cut_it_into(kind):
    units = UnitTokenizer(tokenizer_of(kind), CHARACTER)
    for text in SENTENCES:
        encoded = units.encode_all(text, spaced=False)
        assert units.count(sum(encoded, [])) == len(encoded)


def test_letter_that_marks_spaces_in_other_vocabularies_opens_no_word():
    """Ġ is a letter of Maltese."""
    tokenizer = tokenizer_of("gemma")
    units = UnitTokenizer(tokenizer, WORD)
    (word,) = units.encode("aĠa", spaced=True)
    assert units.text(word) == "aĠa"
    assert [units.opens_word[i] for i in word] == [True] + [False] * (len(word) - 1)


@pytest.mark.parametrize("layout", ["prefix", "slots", "turns"])
@pytest.mark.parametrize("kind", KINDS)
def test_sessions_have_parity_whatever_the_tokenizer(kind, layout, model_of):
    """Also where a word begins with a space alone ("▁", "30"), with which no header may begin."""
    tokenizer = tokenizer_of(kind)
    row = Row("Es sind 30 Hunde - „süß“ 我用iPhone", "There are 30 dogs - “sweet” 5 😀 .", None, None)
    model, block = model_of("llama", len(tokenizer), 0), {"layout": layout, "policy": "wait_k", "k": 2}
    assert_holds(parity(model, tokenizer, [row], block))


@pytest.mark.parametrize("kind", KINDS)
def test_header_inside_a_sequence_has_no_space_before_it(kind):
    tokenizer = tokenizer_of(kind)
    encoder = encoder_of(tokenizer, layout="turns", policy="wait_k", k=2)
    for text, ids in zip(("\nAs:", "\nUs:"), encoder.frame(None, None)[1:], strict=True):
        assert tokenizer.encode(f"x{text}", add_special_tokens=False)[-len(ids) :] == ids
        assert UnitTokenizer(tokenizer, TOKEN)._bytes(ids) == text.encode()


def test_target_in_which_a_session_would_see_the_next_header_is_not_encoded():
    tokenizer = tokenizer_of("gpt2")
    settings = encoder_of(tokenizer, layout="turns", policy="wait_k", k=2).settings
    encoder = ExampleEncoder(tokenizer, replace(settings, prompt=replace(settings.prompt, next_header=" .")))
    with pytest.raises(NotEncodable, match=r"holds the token 'Ġ\.', with which next_header begins: .* choose another"):
        encoder.encode(Row("a b", "oui .", None, None))
    encoder.encode(Row("a b", "oui.", None, None))
