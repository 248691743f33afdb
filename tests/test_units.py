"""Units: the same cut and the same tokens in training, where the text is whole, and while it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_kinds import tokenizer_of

from simulmask_plugin.text.units import (
    CHARACTER,
    TOKEN,
    UNITS,
    WORD,
    NotEncodable,
    UnitTokenizer,
    join_units,
    split_units,
)

# Letters, marks, numbers, punctuation, symbols of all scripts; brackets are left out, in which special tokens stand.
text_characters = st.characters(
    categories=("L", "M", "N", "P", "S"), exclude_characters="<>|\N{REPLACEMENT CHARACTER}▁"
)
words = st.lists(st.text(text_characters, min_size=1, max_size=6), min_size=1, max_size=6)
MANY = ["the dog", "abc abcde, xyz.", "über 3.5 café", "我们 是中国人", "😀👍🏽 a", "नमस्ते e\u0301", 'a\'b "c" — d']


@pytest.fixture(scope="session", params=["byte_level", "llama3", "metaspace"])
def tokenizer(request):
    """Llama 3's keeps spaces apart from numbers."""
    return tokenizer_of("llama3") if request.param == "llama3" else request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "text, unit, units",
    [
        ("the old dog", WORD, ["the", "old", "dog"]),
        ("  the\told\ndog ", WORD, ["the", "old", "dog"]),
        ("10,000 3.5.", WORD, ["10,000", "3.5."]),
        ("a\u00a0b\u3000c", WORD, ["a", "b", "c"]),
        ("the dog", TOKEN, ["the", "dog"]),
        ("我们是", CHARACTER, ["我", "们", "是"]),
        ("我 们\u3000是", CHARACTER, ["我", "们", "是"]),
        ("👍🏽 👨‍👩‍👧", CHARACTER, ["👍🏽", "👨‍👩‍👧"]),
        ("e\u0301", CHARACTER, ["e\u0301"]),
        ("か\u3099く", CHARACTER, ["か\u3099", "く"]),
        ("葛\U000e0100城", CHARACTER, ["葛\U000e0100", "城"]),
        ("我用iPhone 15 Pro。", CHARACTER, ["我", "用", "iPhone", "15", "Pro", "。"]),
        ("The café 3.5", CHARACTER, ["The", "café", "3.5"]),
        ("データを3つ", CHARACTER, ["デ", "ー", "タ", "を", "3", "つ"]),
        ("สวัสดี", CHARACTER, ["ส", "วั", "ส", "ดี"]),
        ("한국어 2개", CHARACTER, ["한국어", "2개"]),
        ("a▁b ▁", WORD, ["a", "b"]),
        ("", WORD, []),
        (" \n", CHARACTER, []),
    ],
)
def test_golden_units(text, unit, units):
    assert split_units(text, unit) == units


@given(words, st.sampled_from(UNITS))
def test_splitting_inverts_joining(pieces, unit):
    units = split_units(" ".join(pieces), unit)
    assert split_units(join_units(units, unit), unit) == units


@pytest.mark.parametrize("text", ["我用iPhone 15 Pro拍照。", "The café 3.5", "한국어 2개", "我 \u0301x"])
def test_characters_keep_the_spaces_that_part_runs(text):
    assert join_units(split_units(text, CHARACTER), CHARACTER) == text


@given(words)
def test_spaced_units_have_the_tokens_of_the_whole_sentence(tokenizer, pieces):
    sentence = " ".join(pieces)
    units = UnitTokenizer(tokenizer, WORD).encode_all(sentence, spaced=True)
    assert sum(units, []) == tokenizer.encode(" " + sentence, add_special_tokens=False)
    assert len(units) == len(pieces)


@given(words, st.booleans())
def test_unspaced_byte_level_units_have_the_tokens_of_the_whole_sentence(byte_level, pieces, of_llama):
    tokenizer, sentence = tokenizer_of("llama3") if of_llama else byte_level, " ".join(pieces)
    units = UnitTokenizer(tokenizer, WORD).encode_all(sentence, spaced=False)
    assert sum(units, []) == tokenizer.encode(sentence, add_special_tokens=False)


@pytest.mark.parametrize(
    "name, sentence, unit, spaced",
    [
        ("byte_level", "the  dog", WORD, False),  # white space is normalized to one space
        ("byte_level", "the dog ", WORD, False),
        ("byte_level", "the\u00a0dog", WORD, False),
        ("metaspace", "the dog", WORD, False),  # SentencePiece opens every text with a space
        ("metaspace", "我们", CHARACTER, False),  # one token holds two characters
    ],
)
def test_where_the_whole_sentence_has_other_tokens(request, name, sentence, unit, spaced):
    tokenizer = request.getfixturevalue(name)
    units = UnitTokenizer(tokenizer, unit).encode_all(sentence, spaced=spaced)
    assert sum(units, []) != tokenizer.encode(sentence, add_special_tokens=False)


@given(words, st.sampled_from(UNITS), st.booleans())
def test_pieces_that_arrive_one_by_one_have_the_tokens_of_training(tokenizer, pieces, unit, spaced):
    sentence = " ".join(pieces)
    units, arrived, before = UnitTokenizer(tokenizer, unit), [], ""
    for piece in split_units(sentence, unit):
        arrived += units.encode_all(piece, spaced=spaced or bool(before), before=before)
        before = piece
    assert arrived == units.encode_all(sentence, spaced=spaced)


@pytest.mark.parametrize("unit", [WORD, CHARACTER])
def test_name_of_a_special_token_is_text_in_a_sentence(tokenizer, unit):
    """Web text holds "</s>", which must not end the sentence."""
    text = f"the {tokenizer.eos_token} dog"
    units = UnitTokenizer(tokenizer, unit)
    encoded = units.encode_all(text, spaced=True)
    assert tokenizer.eos_token_id not in sum(encoded, [])
    assert [units.text(ids) for ids in encoded] == split_units(text, unit)


@pytest.mark.parametrize("text", MANY)
def test_every_token_is_a_token_unit(tokenizer, text):
    words = UnitTokenizer(tokenizer, WORD).encode_all(text, spaced=True)
    assert UnitTokenizer(tokenizer, TOKEN).encode_all(text, spaced=True) == [[i] for i in sum(words, [])]


@given(words, st.sampled_from(UNITS))
def test_a_unit_ends_where_training_ended_it(tokenizer, pieces, unit):
    """The last unit ends with the end of sentence, no unit ends before its last token."""
    units = UnitTokenizer(tokenizer, unit)
    encoded = units.encode_all(" ".join(pieces), spaced=True)
    if unit == CHARACTER:  # whose ends training takes from the tokens
        encoded = units.cut(sum(encoded, []))
    for ids, following in zip(encoded, [*encoded[1:], [tokenizer.eos_token_id]], strict=True):
        assert units.ends_unit(ids, following[0])
        for end in range(1, len(ids)):
            assert not units.ends_unit(ids[:end], ids[end])


def test_a_word_goes_on_after_a_decimal_point(tokenizer):
    units = UnitTokenizer(tokenizer, WORD)
    (ids,) = units.encode("3.5", spaced=True)
    assert not any(units.opens_word[i] for i in ids[1:])


@pytest.mark.parametrize(
    "name, openers, inner",
    [
        ("byte_level", ["Ġ", "Ġdog", "Ċ", "<eos>"], ["a", "og", ".", "<pad>"]),
        ("metaspace", ["▁", "▁the", "</s>"], ["a", "ab", ".", "<pad>", "<0x41>"]),
    ],
)
def test_golden_word_openers(request, name, openers, inner):
    tokenizer = request.getfixturevalue(name)
    opens_word = UnitTokenizer(tokenizer, WORD).opens_word
    assert len(opens_word) == len(tokenizer)
    assert all(opens_word[i] for i in tokenizer.convert_tokens_to_ids(openers))
    assert not any(opens_word[i] for i in tokenizer.convert_tokens_to_ids(inner))


def test_unknown_unit_is_refused(byte_level):
    with pytest.raises(ValueError, match="Unknown unit 'phrase'; expected one of word, character, token"):
        UnitTokenizer(byte_level, "phrase")


class Letters:
    """A token per letter, but for what is merged or dropped."""

    eos_token_id = 0

    def __init__(self, merged=None, dropped="", spaces=" "):
        self.merged, self.dropped, self.spaces = merged, dropped, spaces

    def encode(self, text, **options):
        text = text.replace(self.merged, "#") if self.merged else text
        return [ord(" " if letter in self.spaces else letter) for letter in text if letter not in self.dropped]

    def convert_ids_to_tokens(self, ids):
        return ["▁" if i == ord(" ") else chr(i) for i in ids]

    def __len__(self):
        return 128


@pytest.mark.parametrize(
    "tokenizer, text, message",
    [
        (Letters(merged="x d"), "dog", r"The tokenizer merges 'dog' with the text before it \('x'\)\."),
        (Letters(dropped="qx "), "q", "The tokenizer writes ' x' as .*, which does not show the space; units need"),
        (Letters(dropped="q "), "q", "which does not show the space"),
        (Letters(spaces=" -"), "a-b", r"The tokens of the word 'a-b' \(▁ a ▁ b\) do not show where it begins\."),
    ],
)
def test_what_cannot_be_encoded_is_refused(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        UnitTokenizer(tokenizer, WORD).encode(text, spaced=True)


def test_text_without_tokens_is_refused():
    with pytest.raises(NotEncodable, match=r"The tokenizer has no token for 'qq'\."):
        UnitTokenizer(Letters(dropped="q"), WORD).encode("qq", spaced=False)


@pytest.mark.parametrize("counted_in", ["word", "character"])
@given(text=st.text("aqz我们好 ", min_size=1).map(lambda text: " ".join(text.split())).filter(bool))
def test_written_tokens_are_complete_where_the_next_word_or_character_begins(byte_level, counted_in, text):
    units = UnitTokenizer(byte_level, "token")
    ids = [i for unit in units.encode_all(text, spaced=False) for i in unit]
    held, sent = [], []
    for token in ids:
        held.append(token)
        num = units.num_complete(held, counted_in)
        sent += units.text(held[:num]).split()
        held = held[num:]
    if counted_in == "word":
        assert [*sent, units.text(held)] == text.split()
    else:
        assert held == []
        assert "".join(sent) == text.replace(" ", "")
