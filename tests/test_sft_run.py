"""A run of LLaMA-Factory with the block: what takes the place of its members, and what it says of the data."""

import json
from importlib import import_module
from types import SimpleNamespace

import pytest
from driving import llama_factory, write_checkpoint, write_setup
from in_process import load_data, prepare, run_of

from simulmask_plugin.commands.training_yaml import load_training
from simulmask_plugin.layouts.chunks import NOT_READ_END
from simulmask_plugin.training import llamafactory_seams as factory

pytestmark = llama_factory

BLOCK = {"layout": "interleaved", "instruction": "T", "header": ":"}
SHORT, LONG = {"source": "ein haus am see", "target": "a house"}, {"source": "zwei", "target": "two " * 40}
ROWS = [LONG, LONG, SHORT, SHORT, LONG, SHORT, SHORT, SHORT, SHORT, SHORT]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training YAML over seven short rows and three that are too long for cutoff_len 64."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        path = write_setup(folder, simulmask=BLOCK, template="empty", cache_dir=str(folder / "cache"), bf16=False)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        yield path


@pytest.fixture
def warnings(monkeypatch):
    """What the loader warns of; LLaMA-Factory's change to `datasets` for neat packing is taken back."""
    from datasets.arrow_writer import OptimizedTypedSequence

    monkeypatch.setattr(OptimizedTypedSequence, "__init__", OptimizedTypedSequence.__init__)
    messages = []
    loader = import_module("llamafactory.data.loader")
    monkeypatch.setattr(loader.logger, "warning_rank0", messages.append, raising=False)
    return messages


BATCHES = {
    "padded": (),
    "flash attention": ("flash_attn=fa2",),
    "packed": ("packing=true",),
    "neatly packed": ("packing=true", "neat_packing=true"),
}


@pytest.mark.parametrize("loss_on", ["all", "target"])
@pytest.mark.parametrize("batch_size", [1000, 2])
@pytest.mark.parametrize("kind", BATCHES)
def test_dropped_examples_are_counted_and_no_others(training, warnings, kind, batch_size, loss_on):
    """However they are batched; with two rows a batch, the first batch loses both."""
    overrides = (*BATCHES[kind], f"preprocessing_batch_size={batch_size}", f"simulmask.loss_on={loss_on}")
    kept = load_data(training, *overrides, "cutoff_len=64")
    limit = 63 if "packed" in kind else 64  # LLaMA-Factory keeps one for its padding
    assert [message for message in warnings if "simulmask" in message] == [
        f"simulmask: 3 of 10 examples are longer than cutoff_len {limit} and were dropped; "
        "raise cutoff_len to keep them."
    ]
    assert (len(kept) < 7) == ("packed" in kind)
    eos = 2
    assert sum(ids.count(eos) for ids in kept["input_ids"]) == 7
    if kind != "padded":
        assert "num_rows" not in kept.column_names
        # of the four source words of a row, which comes whole, three do not end the read
        assert sum(labels.count(NOT_READ_END) for labels in kept["labels"]) == (21 if loss_on == "target" else 0)


@pytest.mark.parametrize("kind", BATCHES)
def test_where_nothing_is_dropped_nothing_is_said(training, warnings, kind):
    load_data(training, *BATCHES[kind], "cutoff_len=256")
    assert not [message for message in warnings if "simulmask" in message]


@pytest.fixture
def data_of(tmp_path, monkeypatch):
    """Loads rows through LLaMA-Factory, with a tokenizer that merges "q" with a letter before it."""

    def load(rows, *overrides):
        block = {"policy": "wait_k", "k": 1, "instruction": "T", "header": ":"}
        path = write_setup(tmp_path, simulmask=block, template="empty", cache_dir=str(tmp_path / "cache"), bf16=False)
        file = tmp_path / "model" / "tokenizer.json"
        normalizer = {"type": "Replace", "pattern": {"String": "x q"}, "content": "z"}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": normalizer}))
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_data(path, *overrides)

    return load


@pytest.mark.parametrize("batch_size", [1000, 1])
def test_rows_that_cannot_be_encoded_are_dropped_counted_and_shown(data_of, warnings, batch_size):
    rows = [SHORT] * 400
    for place in (3, 7, 8, 11):
        rows[place] = {"source": "ein haus", "target": "a q house"}
    rows[5] = LONG
    kept = data_of(rows, f"preprocessing_batch_size={batch_size}", "cutoff_len=64")
    assert len(kept) == 395
    too_long, refused = (message for message in warnings if "simulmask" in message)
    assert too_long.startswith("simulmask: 1 of 400 examples are longer than cutoff_len 64 and were dropped")
    assert refused.startswith("simulmask: 4 of 400 examples cannot be encoded, first:\n")
    assert [line for line in refused.splitlines() if "example" in line][1:] == [
        f"Dataset rows.jsonl, example {number}: The tokenizer merges 'q' with the text before it ('x')."
        for number in (4, 8, 9)
    ]
    assert refused.endswith("They were dropped.")


def test_more_than_one_percent_that_cannot_be_encoded_end_the_run_before_it_trains(data_of):
    rows = [SHORT] * 99 + [{"source": "ein q", "target": "a house"}] * 2
    with pytest.raises(ValueError, match=r"(?s)2 of 101 examples cannot be encoded.*example 100: .*more than 1%; use"):
        data_of(rows)


def test_every_member_is_put_back_after_a_run_that_failed(training):
    workflow, run = run_of(load_training(str(training), []))
    modules = workflow, import_module("llamafactory.data.loader"), import_module("llamafactory.model.adapter")
    before = [dict(vars(module)) for module in modules]
    with pytest.raises(KeyError, match="in the run"), factory._seams_replaced(workflow, run):
        pairs = zip(modules, before, strict=True)
        changed = [name for module, names in pairs for name in names if vars(module)[name] is not names[name]]
        raise KeyError("in the run")
    assert len(changed) == 13
    assert [dict(vars(module)) for module in modules] == before


def test_a_member_that_is_gone_is_named_and_nothing_stays_replaced(training, monkeypatch):
    workflow, run = run_of(load_training(str(training), []))
    adapter = import_module("llamafactory.model.adapter")
    monkeypatch.delattr(adapter, "LoraConfig")
    before = dict(vars(workflow))
    message = r"has no llamafactory\.model\.adapter\.LoraConfig, which simulmask_plugin .* builds on"
    with pytest.raises(RuntimeError, match=message), factory._seams_replaced(workflow, run):
        pass
    assert dict(vars(workflow)) == before


# What was trained is what is saved

SENTENCE = {"source": "ein haus am see", "target": "a house"}
CHUNKS = {"source_chunks": ["ein haus", " am see"], "target_chunks": ["a house", " by it"]}
DATA = {
    "one": [SENTENCE | {"source_lang": "German", "target_lang": "French"}] * 2,
    "two": [
        SENTENCE | {"source_lang": "German", "target_lang": None},
        LONG | {"source_lang": "Dutch", "target_lang": "Dutch"},
        SENTENCE | {"source_lang": None, "target_lang": "Greek"},
    ],
    "none": [SENTENCE] * 3,
    "held_out": [SENTENCE | {"source_lang": "Held", "target_lang": "Out"}],
    "chunks": [CHUNKS | {"latency": "high", "target_lang": "French"}, CHUNKS | {"latency": "low", "target_lang": None}],
    "whole": [SENTENCE | {"latency": "medium"}, SENTENCE | {"latency": None}],
}
"""Rows by data set; the long one never gets into a training of cutoff_len 100."""

DE_FR, DE_DEFAULT, DEFAULT_EL, DEFAULT = ("German", "French"), ("German", "Y"), ("X", "Greek"), ("X", "Y")
PREFIX = {"policy": "wait_k", "k": 1, "instruction": "T", "header": ":"}


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    """A training YAML for each layout, over data sets that name their languages, or do not."""
    folder = tmp_path_factory.mktemp("languages")
    blocks = {
        "prefix": PREFIX,
        "interleaved": BLOCK,
        "pairs": PREFIX | {"prefix_pairs": True, "positions": "contiguous"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        paths = {}
        for name, block in blocks.items():
            block = block | {"source_lang": "X", "target_lang": "Y"}
            keys = {"template": "empty", "cache_dir": str(folder / "cache"), "bf16": False, "cutoff_len": 100}
            paths[name] = write_setup(folder, simulmask=block, **keys).rename(folder / f"{name}.yaml")
        entries = {}
        for name, rows in DATA.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            columns = {column: column for column in rows[0]}
            entries[name] = {"file_name": f"{name}.jsonl", "formatting": "simulmask", "columns": columns}
        (folder / "dataset_info.json").write_text(json.dumps(entries))
        yield paths


def trained_on(path, *overrides):
    """What simulmask.json says of the data, and of the languages of the block."""
    run, data = prepare(path, *overrides)
    assert "prompts" not in data["train_dataset"].column_names
    settings = run.settings
    return settings.trained_on.language_pairs, settings.trained_on.latencies, settings.pair


@pytest.mark.parametrize(
    ("layout", "datasets", "pairs", "latencies"),
    [
        ("prefix", "one", [DE_FR], []),
        ("prefix", "none", [DEFAULT], []),
        ("prefix", "two", [DE_DEFAULT, DEFAULT_EL], []),
        ("prefix", "one,none,two", [DE_FR, DE_DEFAULT, DEFAULT_EL, DEFAULT], []),
        ("pairs", "one,two", [DE_FR, DE_DEFAULT, DEFAULT_EL], []),
        ("interleaved", "one", [DE_FR], ["offline"]),
        ("interleaved", "chunks", [("X", "French"), DEFAULT], ["low", "high"]),
        ("interleaved", "whole,chunks,one", [DE_FR, ("X", "French"), DEFAULT], ["low", "medium", "high", "offline"]),
    ],
)
def test_language_pairs_and_latencies_are_those_of_the_data(languages, layout, datasets, pairs, latencies):
    """Of all its data sets, with the block's languages where a row has none, and without what was dropped."""
    expected = tuple(pairs), tuple(latencies)
    for _ in range(2):  # the second run takes the rows from the map cache
        assert trained_on(languages[layout], f"dataset={datasets}")[:2] == expected


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_llama_factory_hide_no_language(languages, warnings, kind):
    options = (*BATCHES[kind], "dataset=whole,chunks,one,two", "preprocessing_batch_size=2")
    expected = (DE_FR, DE_DEFAULT, ("X", "French"), DEFAULT_EL, DEFAULT), ("low", "medium", "high", "offline")
    assert trained_on(languages["interleaved"], *options)[:2] == expected


@pytest.mark.parametrize(
    "held_out", [("eval_dataset=held_out",), ("eval_dataset=held_out,none", "eval_on_each_dataset=true")]
)
def test_held_out_data_is_no_training(languages, held_out):
    pairs, _, pair = trained_on(languages["prefix"], "dataset=one", *held_out)
    assert pairs == (DE_FR,)
    assert pair() == DE_FR


def test_split_off_data_is_no_training(languages):
    found = {trained_on(languages["prefix"], "dataset=one,held_out", "val_size=1", f"seed={s}")[0] for s in range(6)}
    held_out = ("Held", "Out")
    assert found == {(DE_FR,), (DE_FR, held_out)}


def test_single_pair_of_the_data_is_the_one_to_stream(languages):
    run, _ = prepare(languages["prefix"], "dataset=one")
    assert (run.settings.config.source_lang, run.settings.config.target_lang) == DE_FR
    several, _ = prepare(languages["prefix"], "dataset=one,none")
    with pytest.raises(ValueError, match="several language pairs: German to French, X to Y"):
        several.settings.pair()


@pytest.mark.parametrize("has_optimizer", [True, False])
def test_resume_without_an_optimizer_is_said(training, warnings, monkeypatch, tmp_path, has_optimizer):
    monkeypatch.setattr("simulmask_plugin.training.run.SimulMaskTrainer", type("Ours", (), {}))
    checkpoint = write_checkpoint(tmp_path / "checkpoint-20")
    if not has_optimizer:
        (checkpoint / "optimizer.pt").unlink()
    setup = load_training(str(training), [])
    run = run_of(setup)[1]
    run.settings = setup.settings
    stock = type("Stock", (), {"__init__": lambda self, args, finetuning_args: None})
    for resumed in (None, str(checkpoint)):
        arguments = SimpleNamespace(resume_from_checkpoint=resumed)
        run.make_trainer(stock, args=arguments, finetuning_args=SimpleNamespace(pissa_convert=False))
    said = [message for message in warnings if "holds no optimizer" in message]
    assert len(said) == (not has_optimizer)
