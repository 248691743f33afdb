"""Real programs on a tiny model, each run once however many tests and test processes ask for its result."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psutil
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent
STAGE1 = ROOT / "yaml_configs" / "toy_wait_k_stage1_full.yaml"
STAGE2 = ROOT / "yaml_configs" / "toy_wait_k_stage2_lora.yaml"
NUM_TRAIN, NUM_TEST = 200, 6
PATIENCE = 300  # seconds; the longest program takes some 40, on a busy machine several times that


@dataclass(frozen=True, slots=True)
class Workshop:
    """A folder with data, a random model and everything that is made of them; shared between test processes."""

    folder: Path

    def run(self, name, *command, **environment):
        """Run a program and return its log; `name` stands for the run. A run that failed is not tried again."""
        log, failed = (self.folder / f"{name}.{kind}" for kind in ("log", "failed"))
        with FileLock(self.folder / f"{name}.lock"):
            if not log.exists() and not failed.exists():
                unfinished = log.with_suffix(".unfinished")
                with unfinished.open("w") as file:
                    code = self.wait_for(self.start(command, file, **environment))
                    file.write(f"exit status: {code}\n")
                unfinished.rename(failed if code else log)
            assert log.exists(), failed.read_text()[-4000:]
        return log.read_text()

    def start(self, command, log, **environment):
        """Start a program in the project's folder, all its output in `log`."""
        # DeepSpeed compiles an extension; the user's own folder of them may hold the lock of a build that was killed
        known = clean_environment() | {"TORCH_EXTENSIONS_DIR": str(self.folder / "torch_extensions")}
        command = [str(part) for part in command]
        return subprocess.Popen(command, cwd=ROOT, env=known | environment, stdout=log, stderr=log)

    @staticmethod
    def wait_for(process):
        """Return the exit status; a program that hangs, or whose test is stopped, ends with all that it started."""
        try:
            return process.wait(timeout=PATIENCE)
        except BaseException:
            kill(process)
            raise

    def prepare(self):
        """Make the data (ours and LLaMA-Factory's alpaca format) and a random Falcon; return the workshop."""
        data, model = self.folder / "data", self.folder / "model"
        sizes = ("--train", NUM_TRAIN, "--valid", 1, "--test", NUM_TEST)
        python = sys.executable
        self.run("pairs", python, "data/make_toy_pair.py", "--output", data, *sizes, "--chunks")
        self.run(
            "model",
            *(python, "data/make_model.py", "--text", data / "train.jsonl", "--output", model),
            *("--layers", 2, "--hidden", 32, "--heads", 2, "--vocab-size", 400),
        )
        info = data / "dataset_info.json"
        with FileLock(self.folder / "info.lock"):
            known = json.loads(info.read_text())
            if "alpaca" not in known:
                write_alpaca(data / "train.jsonl", data / "alpaca.json")
                columns = {"source": "source", "target": "target"}
                entry = {"file_name": "train.jsonl", "formatting": "simulmask", "columns": columns}
                info.write_text(json.dumps({**known, "toy_train": entry, "alpaca": {"file_name": "alpaca.json"}}))
        return self

    def without_block(self):
        """The YAML of stage 1 without its block."""
        path = self.folder / "plain.yaml"
        keys = yaml.safe_load(STAGE1.read_text())
        del keys["simulmask"]
        path.write_text(yaml.safe_dump(keys))
        return path

    def train(self, name, *overrides, config=STAGE1, **environment):
        """Train a few steps with `llamafactory-cli train`; return the output folder."""
        self.run(f"train_{name}", *self.training_command(name, *overrides, config=config), **environment)
        return self.folder / name

    def training_command(self, name, *overrides, config=STAGE1):
        """The command of a training: a toy YAML, made smaller."""
        return [
            *(SCRIPTS / "llamafactory-cli", "train", config),
            *(f"model_name_or_path={self.folder / 'model'}", f"dataset_dir={self.folder / 'data'}"),
            *(f"output_dir={self.folder / name}", "logging_steps=1", "disable_tqdm=true"),
            *("per_device_train_batch_size=8", "train_sampling_strategy=random", "max_steps=10"),
            *("lr_scheduler_type=constant", "warmup_steps=0", "learning_rate=1e-2"),
            *overrides,
        ]

    def train_and_kill(self, name, *overrides, checkpoint):
        """Start a training and SIGKILL it once a checkpoint is complete; return the output folder."""
        output = self.folder / name
        with FileLock(self.folder / f"{name}.lock"):
            if not (output / checkpoint).exists():
                with (self.folder / f"{name}.log").open("w") as log:
                    process = self.start(self.training_command(name, *overrides), log)
                    while not (output / checkpoint / "trainer_state.json").exists():
                        assert process.poll() is None, Path(log.name).read_text()[-4000:]
                        time.sleep(0.01)
                    process.send_signal(signal.SIGKILL)
                    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
        return output


def kill(process):
    """SIGKILL a program and all that it started."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.wait()


def clean_environment():
    """One thread, no network, the environment's own programs first (torchrun is found through PATH)."""
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(("SIMULMASK", "PYTEST"))}
    return inherited | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PYTHONFAULTHANDLER": "1",  # a program that is aborted says where
    }


def stock_environment(folder):
    """The plugin switched off; where torchaudio does not work, an empty one stands in for it, as the plugin's does."""
    environment = {"SIMULMASK_PLUGIN": "0"}
    try:
        import_module("torchaudio")
    except Exception:  # a torchaudio for another torch raises many kinds
        folder.mkdir(exist_ok=True)
        (folder / "torchaudio.py").touch()
        environment["PYTHONPATH"] = str(folder)
    return environment


def write_alpaca(pairs, path):
    """The pairs as an instruction-tuning set whose text is that of `instruction: "X:"` in a chat template."""
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    alpaca = [{"instruction": f"X: {row['source']}", "input": "", "output": f" {row['target']}"} for row in rows]
    path.write_text(json.dumps(alpaca))


def losses(output):
    """The loss of each step of a training."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def first_input_ids(log):
    """The token ids of the first example, which LLaMA-Factory prints."""
    return json.loads(log.split("input_ids:\n", 1)[1].splitlines()[0])
