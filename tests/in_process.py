"""LLaMA-Factory's trainings and exports in the test's own process: seconds less for each than with its command line."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.training_yaml import load_training
from simulmask_plugin.text.prompts import READ_END, WRITE_END
from simulmask_plugin.training import llamafactory_seams as factory
from simulmask_plugin.training.arguments import is_flat

ROWS = [
    {"source": source, "target": target}
    for source, target in (
        ("ein haus", "a house"),
        ("zwei katzen am see", "two cats at the lake"),
        ("der hund", "the dog"),
        ("wir gehen heim", "we go home"),
    )
] * 4
"""Sixteen rows: four sentences, four times each."""

TURN_END = "<|im_end|>"
"""End of a turn in the templates of Qwen and ChatML."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder with data; models, trainings and exports are made in it by name."""

    folder: Path

    def model(self, name, family="llama", *, tied=False, ends=True, extra=(), **overrides):
        """Write a tiny random model; `ends`: its tokenizer has EAST's two tokens; `extra`: other tokens it has."""
        tokenizer = byte_tokenizer() if ends else without_ends()
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)}, replace_extra_special_tokens=False)
        model = tiny_model(family, len(tokenizer), 0, tie_word_embeddings=tied, **overrides)
        model.save_pretrained(self.folder / name)
        tokenizer.save_pretrained(self.folder / name)
        return str(self.folder / name)

    def train(self, name, model, **keys):
        """Train two steps as the keys say; return the output folder."""
        from llamafactory.train import tuner

        output = self.folder / name
        tuner.run_exp(self.keys(model, output, **keys))
        return output

    def keys(self, model, output, **keys):
        """The training YAML."""
        defaults = {
            "model_name_or_path": str(model),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": 4,
            "dataset_dir": str(self.folder),
            "dataset": "rows",
            "template": "empty",
            "cutoff_len": 512,
            "cache_dir": str(self.folder / "cache"),
            "output_dir": str(output),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "simulmask": {"policy": "wait_k", "k": 2},
        }
        return {key: value for key, value in (defaults | keys).items() if value is not None}

    def export(self, name, model, *adapters, **keys):
        """Merge adapters into a model; return the folder."""
        from llamafactory.train import tuner

        output = self.folder / name
        defaults = {
            "model_name_or_path": str(model),
            "adapter_name_or_path": ",".join(map(str, adapters)) or None,
            "finetuning_type": "lora" if adapters else "full",
            "export_dir": str(output),
            "infer_dtype": "float32",
        }
        tuner.export_model({key: value for key, value in (defaults | keys).items() if value is not None})
        return output


def without_ends():
    """The same tokenizer without the two special tokens of EAST."""
    content = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] not in (READ_END, WRITE_END)]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_bench(folder):
    """Write the data."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    columns = {"source": "source", "target": "target"}
    entry = {"file_name": "rows.jsonl", "formatting": "simulmask", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    return Bench(folder)


def run_of(setup):
    """The run that LLaMA-Factory would do, and its workflow."""
    workflow = import_module("llamafactory.train.sft.workflow")
    loader = import_module("llamafactory.data.loader")
    from simulmask_plugin.training.run import SftRun

    flat = is_flat(setup.model_args, setup.data_args)
    return workflow, SftRun(config=setup.settings.config, seed=0, flat=flat, logger=loader.logger)


def load_data(path, *overrides):
    """The training data of a YAML as LLaMA-Factory hands it to the trainer."""
    return prepare(path, *overrides)[1]["train_dataset"]


def prepare(path, *overrides):
    """The run of a YAML, once LLaMA-Factory has loaded its data, and these."""
    from llamafactory.data import get_template_and_fix_tokenizer

    setup = load_training(str(path), list(overrides))
    template = get_template_and_fix_tokenizer(setup.tokenizer, setup.data_args)
    arguments = setup.model_args, setup.data_args, setup.training_args
    workflow, run = run_of(setup)
    with factory._seams_replaced(workflow, run):
        return run, workflow.get_dataset(template, *arguments, stage="sft", tokenizer=setup.tokenizer)


def losses(output):
    """The training loss of each step."""
    history = json.loads((Path(output) / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def load(folder):
    """Model and tokenizer of a folder."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )
