"""Files told apart by their content."""

import hashlib
import json
import os

import pytest

from simulmask_plugin.evaluation import digests
from simulmask_plugin.evaluation.digests import Digests, model_files


def write(path, content, *, age=3600):
    """A file that was last changed some time ago."""
    path.write_bytes(content)
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now, now - age * 10**9))
    return path


def test_digest_is_that_of_the_whole_content(tmp_path):
    path = write(tmp_path / "a", b"x" * 3_000_000)
    assert Digests(tmp_path / "store").of(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    write(path, b"x" * 2_999_999 + b"y", age=1800)
    assert Digests(tmp_path / "store").of(path) == hashlib.sha256(b"x" * 2_999_999 + b"y").hexdigest()


def test_large_files_are_read_once(tmp_path, monkeypatch):
    path, store = write(tmp_path / "a", b"content"), tmp_path / "store"
    known = Digests(store)
    expected = known.of(path)
    known.save()
    monkeypatch.setattr(digests, "_sha256", None)
    assert Digests(store).of(path) == expected


def test_file_that_has_changed_is_read_again(tmp_path):
    path, store = write(tmp_path / "a", b"content"), tmp_path / "store"
    known = Digests(store)
    before = known.of(path)
    known.save()
    write(path, b"CONTENT", age=1800)
    assert Digests(store).of(path) != before


def test_file_that_may_change_within_its_time_is_not_kept(tmp_path):
    path, store = write(tmp_path / "a", b"content", age=0), tmp_path / "store"
    known = Digests(store)
    known.of(path)
    known.save()
    assert json.loads(store.read_text()) == {}


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_damaged_store_is_made_again(tmp_path, content):
    path, store = write(tmp_path / "a", b"content"), tmp_path / "store"
    store.write_text(content)
    known = Digests(store)
    assert known.of(path) == hashlib.sha256(b"content").hexdigest()
    known.save()
    assert list(json.loads(store.read_text())) == [str(path)]


def test_files_of_a_model_are_those_that_decide_on_its_outputs(tmp_path):
    decide = [
        "adapter_config.json",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
    ]
    decide += [
        "simulmask.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    for name in (*decide, "training_args.bin", "trainer_state.json", "README.md", "optimizer.pt", "all_results.json"):
        (tmp_path / name).touch()
    (tmp_path / "tokenizers").mkdir()
    assert [path.name for path in model_files(tmp_path)] == decide
