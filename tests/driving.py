"""How the tests drive the package: encoders, sessions, targets that are forced, sentences, a training YAML."""

import json
import random
from argparse import ArgumentParser
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from reference import settings_of
from safetensors.torch import save_file

from simulmask_plugin.attention.families import FAMILIES, tiny_model
from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.policies import Action, Policy, ReadSchedule
from simulmask_plugin.streaming.parity import ParityResult, compare
from simulmask_plugin.streaming.unit_session import StreamingSession
from simulmask_plugin.training import dataset as training_data
from simulmask_plugin.training.dataset import SimulMaskDatasetProcessor

# LLaMA-Factory and what it imports warn of much; that is not what is tested here.
llama_factory = pytest.mark.filterwarnings("default")

THOROUGH = "falcon bloom mpt llama mistral qwen2 qwen3 gemma2 gemma3 falcon_rope".split()
"""Families that are tried with everything. The others' code is like theirs: they are tried with the attention that they
have where nothing is said, and once in every layout."""

FAMILY_ATTENTION = [
    (name, attention)
    for name, family in FAMILIES.items()
    for attention in (family.implementations if name in THOROUGH else family.implementations[:1])
]

POLICIES = {
    "wait-1": {"policy": "wait_k", "k": 1},
    "wait-3": {"policy": "wait_k", "k": 3},
    "wait-50": {"policy": "wait_k", "k": 50},
    "read-2": {"policy": "read_n", "n": 2},
    "offline": {"policy": "offline"},
    "schedule": {"policy": "schedule"},
}

SOURCE, TARGET = "the dog abc", "cat abcde xyz"
PROMPT, HEADER = ["T", "r", ":"], ["\n", "A", "s", ":"]
"""Tokens of the prompt of `settings_of`."""


def encoder_of(tokenizer, **block) -> ExampleEncoder:
    return ExampleEncoder(tokenizer, settings_of(**block))


def is_valid(block) -> bool:
    """Whether a block holds nothing that contradicts or means nothing."""
    try:
        SimulMaskConfig.from_dict(block)
    except ValueError:
        return False
    return True


def target_ids_of(encoder, source, target):
    example = encoder.encode(Row(source, target, "English", "German"))
    return example.input_ids[example.source_end + example.num_header :].tolist()


def layout_of(encoder, session, writes, words):
    """The training sequence of what a session has written, by the (g, number of tokens) of each unit."""
    example = encoder.encode(Row(" ".join(words), "x", "English", "German"))
    start = example.source_end + example.num_header
    ids = [*example.input_ids[:start], *session.target_ids, encoder.tokenizer.eos_token_id]
    g, lengths = zip(*writes, strict=True)
    example = replace(example, input_ids=np.array(ids), target_lengths=np.array(lengths))
    return lay_out(encoder.settings.config, example, ReadSchedule((*g, len(words)), len(words)))


def session_of(model, encoder, policy=None, **options):
    policy = policy or encoder.settings.config.policies[0]
    return StreamingSession(model=model, encoder=encoder, policy=policy, **options)


def steps(session, pieces, *, ahead=False):
    """Stream as an agent would; yield what was done, and what was read or written.

    `ahead`: all of the source is there before anything is written.
    """
    pieces = list(pieces)
    while not session.finished:
        if pieces and (ahead or action_of(session) is Action.READ):
            piece = pieces.pop(0)
            session.read(piece)
            if not pieces:
                session.finish_source()
            yield Action.READ, piece
        else:
            yield Action.WRITE, session.write()


def action_of(session):
    """What the session wants next."""
    action = session.action()
    assert session.action() is action, "asked twice, it has changed its mind"
    return action


def drive(session, pieces, *, ahead=False):
    """Stream as an agent would; return what was written."""
    done = steps(session, pieces, ahead=ahead)
    return [unit for action, unit in done if action is Action.WRITE and unit is not None]


def actions_of(session, pieces):
    """R and W in the order in which they happened."""
    return "".join(action.value[0] for action, _ in steps(session, pieces))


class Calls(list):
    """Records the tokens of every call of a model while in use."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def __enter__(self):
        def record(module, args, kwargs):
            self.append([self.tokenizer.decode([token]) for token in kwargs["input_ids"][0]])

        self.hook = self.model.register_forward_pre_hook(record, with_kwargs=True)
        return self

    def __exit__(self, *error):
        self.hook.remove()


@dataclass
class Forced:
    """Chooses given tokens and keeps the logits of every row.

    Those of its first call: the row before an end of sentence is asked again after each READ that answers it.
    """

    target_ids: list[int]
    rows: dict = field(default_factory=dict)

    def choose(self, logits, index, opening):
        return self.target_ids[index]

    def trace(self, index, kind, logits):
        self.rows.setdefault((index, kind), logits)

    def rows_of_last_call(self, index, kind, logits):
        """A trace that keeps the last call's instead."""
        self.rows[index, kind] = logits


@dataclass(frozen=True, kw_only=True)
class Asks(Policy):
    """Has a function look at the model's predictions before every unit."""

    name = "asks"
    answer: Any

    def wanted(self, t):
        return 0

    def accepts(self, evidence):
        return self.answer(evidence)


@dataclass(frozen=True, kw_only=True)
class CatchUp(Policy):
    """A policy of one's own, with two numbers."""

    name = "catch_up"
    k: int
    n: int


def sentence(rng, num_words):
    return " ".join("".join(rng.choices("abcdexyz", k=rng.randint(1, 6))) for _ in range(num_words))


def sentence_pairs(lengths=((1, 1), (1, 6), (6, 1), (3, 7), (8, 4), (5, 5)), seed=0):
    """Sentence pairs of given lengths in words, each with a schedule of its own."""
    rng = random.Random(seed)
    rows = []
    for num_source, num_target in lengths:
        schedule = tuple(sorted(rng.randint(0, num_source) for _ in range(num_target + 1)))
        rows.append(Row(sentence(rng, num_source), sentence(rng, num_target), "English", "German", schedule))
    return rows


def parity(model, tokenizer, sentences, block):
    """Training against streaming, over all of the sentences."""
    encoder, result = encoder_of(tokenizer, **block), ParityResult()
    for row in sentences:
        compare(model, encoder, row, result)
    return result


def assert_holds(result):
    assert result.same_ids
    assert result.max_abs_diff <= 1e-4
    assert result.max_logit > 1, "the logits are too small for a difference to be seen"
    assert result.holds


def error(capsys, *arguments):
    """The error message of a command that must exit with code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("simulmask: error: ")
    return message.removeprefix("simulmask: error: ")


def write_setup(folder, **keys):
    """Write a tiny model, data and a training YAML; return the YAML's path."""
    tokenizer = byte_tokenizer()
    tiny_model("llama", len(tokenizer), 0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"source": "ein haus", "target": "a house"}, {"source": "zwei", "target": "two of them"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "broken.jsonl").write_text(json.dumps(rows[0]) + "\n{not json\n")
    columns = {"source": "source", "target": "target"}
    entries = {
        "rows": {"file_name": "rows.jsonl", "formatting": "simulmask", "columns": columns},
        "absent_column": {"file_name": "rows.jsonl", "formatting": "simulmask", "columns": {"source": "src"}},
        "absent_file": {"file_name": "nowhere.jsonl", "formatting": "simulmask", "columns": columns},
        "broken": {"file_name": "broken.jsonl", "formatting": "simulmask", "columns": columns},
        "alpaca": {"file_name": "rows.jsonl"},
    }
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    path = folder / "train.yaml"
    content = {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset_dir": str(folder),
        "dataset": "rows",
        "cutoff_len": 256,
        "output_dir": str(folder / "output"),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "bf16": True,
        "simulmask": {"policy": "wait_k", "k": 1},
    }
    path.write_text(yaml.safe_dump(content | keys))
    return path


def agent_of(folder, *options, latency_unit="word"):
    """SimulEval's agent of a model, on the CPU."""
    from simulmask_plugin.agents import SimulMaskAgent

    parser = ArgumentParser()
    SimulMaskAgent.add_args(parser)
    args = parser.parse_args(["--model", str(folder), *options])
    args.device, args.eval_latency_unit = "cpu", latency_unit
    return SimulMaskAgent(args)


def write_model(folder, model, tokenizer, settings):
    """Write what training leaves of a model; return its folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings.save(folder)
    return folder


def write_checkpoint(folder):
    """Write what the trainer leaves of a checkpoint; return its folder."""
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(30), "b": torch.ones(2, 3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": torch.zeros(9)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 20}))
    return folder


def data_row(source, target, g=None):
    return {"_source": source, "_target": target, "_schedule": g, "_where": "here"}


def processed(encoder, *rows, cutoff_len=1000):
    """The features that LLaMA-Factory's map would give the collator."""
    columns = {f"_{name}": [None] * len(rows) for name in training_data.COLUMNS}
    columns |= {name: [values[name] for values in rows] for name in rows[0]}
    processor = SimulMaskDatasetProcessor(encoder.tokenizer, encoder.settings, cutoff_len)
    batch = processor.preprocess_dataset(columns)
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
