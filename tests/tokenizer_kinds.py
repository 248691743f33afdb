"""Small tokenizers with the normalizers, pre-tokenizers and decoders of real families, trained on a few lines."""

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

SENTENCES = """\
Two dogs are playing with 30 red balls in the park.
Zwei Hunde spielen im Park mit 30 roten Bällen, sagt er.
Er ist krank - aber nicht sehr; "morgen" geht es ihm besser!
Bonjour ! Comment allez-vous ? L'homme a dit ' oui ' .
It cost $3.50 (or 10,000 yen) at https://example.org/a_b?c=d&e=1 in 2016.
The café's owner can't say: 50% more than we'd like...
我用iPhone 15 Pro拍照，你好世界。他们是中国人！
彼は東京に住んでいます。データを3つ送ってください。
한국어 문장은 띄어쓰기가 있습니다 .
नमस्ते दुनिया । मैं हिन्दी बोलता हूँ
مرحبا بالعالم، كيف حالك؟
สวัสดีครับ ผมชื่อสมชาย
👍🏽 👨‍👩‍👧 😀 ❤️ — “quotes” ‘single’ «guillemets» … 3–4
""".splitlines()

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
)


def _byte_level(*before, use_regex=True, normalizer=None):
    splits = [*before, pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)]
    return _trained(models.BPE(), pre.Sequence(splits), decoders.ByteLevel(), normalizer)


def _falcon():
    splits = pre.Punctuation("contiguous"), pre.ByteLevel(add_prefix_space=False, use_regex=True), pre.Digits(False)
    groups_of_three = pre.Split(Regex("[0-9][0-9][0-9]"), "isolated")
    return _trained(models.BPE(), pre.Sequence([*splits, groups_of_three]), decoders.ByteLevel())


def _sentence_piece(pre_tokenizer=None, normalizer=None, strips=True):
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _trained(model, pre_tokenizer, decoder, normalizer)


def _trained(model, pre_tokenizer, decoder, normalizer=None):
    """Whatever the pre-tokenizer is, no piece is learned that has a space inside: no family has any."""
    tokenizer = Tokenizer(model)
    byte_level = isinstance(decoder, decoders.ByteLevel)
    tokenizer.pre_tokenizer = (
        pre.Sequence([pre_tokenizer, pre.Split(Regex("(?<=.)(?=Ġ)"), "isolated")]) if byte_level else pre.Metaspace()
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *(() if byte_level else (f"<0x{byte:02X}>" for byte in range(256)))],
        initial_alphabet=pre.ByteLevel.alphabet() if byte_level else ["▁"],
        limit_alphabet=320,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.decoder = decoder
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizer
    return tokenizer


def _split(pattern):
    return pre.Split(Regex(pattern), "isolated")


KINDS = {
    "gpt2": _byte_level,
    "smollm2": lambda: _byte_level(pre.Digits(individual_digits=True)),
    "falcon": _falcon,
    "llama3": lambda: _byte_level(_split(LLAMA_3), use_regex=False),
    "qwen2": lambda: _byte_level(
        _split(LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")), use_regex=False, normalizer=normalizers.NFC()
    ),
    "deepseek": lambda: _byte_level(*map(_split, DEEPSEEK), pre.Digits(individual_digits=True), use_regex=False),
    "metaspace_first": lambda: _sentence_piece(pre.Metaspace(prepend_scheme="first", split=False)),
    "metaspace_always": lambda: _sentence_piece(pre.Metaspace(prepend_scheme="always")),
    "legacy_prefix": lambda: _sentence_piece(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    "gemma": lambda: _sentence_piece(
        pre.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"), strips=False
    ),
}
"""Name -> the tokenizer of a family."""


@cache
def tokenizer_of(kind):
    """The tokenizer of a kind, as transformers has it; Llama 3's cleans up spaces unless told not to."""
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        clean_up_tokenization_spaces=kind == "llama3",
    )
