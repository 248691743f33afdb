"""Tokenizers and tiny models that many tests share; everything is offline and on one core."""

import copy
import os
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# The modules that hold tensors have their shapes and types checked while the tests run. pytest's own
# --jaxtyping-packages refuses a package that was imported before, as ours is by its start-up hook.
PACKAGE = Path(__file__).parents[1] / "simulmask_plugin"
TENSOR_ROOMS = ("attention", "batches", "layouts", "streaming")
TENSOR_MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(
        [*(path for room in TENSOR_ROOMS for path in PACKAGE.glob(f"{room}/*.py")), PACKAGE / "training" / "losses.py"]
    )
    if "jaxtyping" in path.read_text(encoding="utf-8")
]
install_import_hook(TENSOR_MODULES, "beartype.beartype")

from simulmask_plugin.attention.families import tiny_model  # noqa: E402
from simulmask_plugin.text.prompts import READ_END, WRITE_END  # noqa: E402

settings.register_profile("simulmask", deadline=None, derandomize=True, database=None)
settings.load_profile("simulmask")
torch.set_num_threads(1)

WORDS = "abc abd bcd dog cat the house abc ab cd cde xyz abcde dexyz ."
HAN = "我们是中国人"


@pytest.fixture(scope="session")
def byte_level():
    """Byte-level BPE, as GPT-2 and Falcon have it: " dog" is a token, any text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return train_byte_level(tokenizer)


@pytest.fixture(scope="session")
def with_ends(byte_level):
    """The same with the two special tokens of the layout `interleaved`."""
    return add_ends(byte_level)


@pytest.fixture(scope="session")
def both_with_ends(with_ends, metaspace):
    """Either kind, with these tokens."""
    return with_ends, add_ends(metaspace)


def add_ends(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [READ_END, WRITE_END]})
    return tokenizer


def train_byte_level(tokenizer):
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 3 + [HAN] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def metaspace():
    """BPE as SentencePiece makes it for Llama 2 and Gemma: "▁dog" is a token, rare characters fall back to bytes."""
    merges = [("▁", letter) for letter in "abcdexyzt"]
    merges += [("a", "b"), ("c", "d"), ("▁a", "b"), ("▁ab", "c"), ("▁t", "h"), ("▁th", "e"), ("x", "y")]
    merges += [("我", "们"), ("中", "国")]
    pieces = ["<pad>", "<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "."]
    pieces += [*"abcdefghijklmnopqrstuvwxyz", *sorted(set(HAN)), *(left + right for left, right in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def tokenizer(request):
    """Either kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def model_of():
    """Tiny random models by family, vocabulary size, seed and attention; each is built once."""
    return lru_cache(maxsize=None)(tiny_model)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Trainings and exports in this process, in a folder of each test module's own."""
    from in_process import make_bench

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        yield make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def browser():
    """A real one; the tests are skipped where there is none."""
    from browsing import browsing

    with browsing() as found:
        yield found


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """Runs of real programs, shared by all test processes of a run."""
    from end_to_end import Workshop

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "popen-gw" in base.name else base
    folder = shared / "end_to_end"
    folder.mkdir(exist_ok=True)
    return Workshop(folder).prepare()
