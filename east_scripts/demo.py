"""Goes the whole way on a synthetic language pair: data, model, two trainings, merge, streaming, curve.

    python east_scripts/demo.py                                # make demo: everything, into output/demo
    python east_scripts/demo.py --method east                  # make demo-east: likewise, into output/demo_east
    python east_scripts/demo.py --output output/toy --prepare  # data and model, for yaml_configs/toy_*.yaml

Every step is a command that you could type; its log, which begins with the command, is in OUTPUT/logs. A step
that has finished is not repeated, unless one before it was; --fresh starts over.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent

MARKER = ".simulmask_demo"
"""A file in every folder that the demo has made; it writes to no other."""

SIZES = ("--train", 40000, "--valid", 200, "--test", 150)
HEADS = 16
"""Many small heads: Falcon divides ALiBi by the root of a head's size, and the order of words hangs on it."""

LAST_PREPARATION = "model"
TAIL = 20
"""Lines of a failed step's log that are printed."""

COLUMNS = {
    "name": "policy",
    "bleu": "BLEU",
    "chrf": "chrF",
    "laal": "LAAL",
    "al": "AL",
    "calls_per_token": "calls/token",
    "seconds_per_sentence": "s/sentence",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the file that it leaves behind."""

    name: str
    title: str
    command: tuple[str, ...]
    result: Path


@dataclass(frozen=True, slots=True)
class Method:
    """What the demo of a method does otherwise than the others; its YAMLs are yaml_configs/toy_*.yaml."""

    pair_options: tuple[str, ...]
    stage1: str
    stage1_title: str
    stage2: str
    stage2_title: str
    merge: str
    evaluation: str
    evaluation_title: str
    closing: str


METHODS = {
    "wait_k": Method(
        pair_options=(),
        stage1="toy_wait_k_stage1_full",
        stage1_title="full; k = 5, 9 and offline",
        stage2="toy_wait_k_stage2_lora",
        stage2_title="LoRA on stage 1; every k",
        merge="toy_merge",
        evaluation="toy_eval",
        evaluation_title="k = 1, 3, 5, 7, 9 and offline",
        closing="One model, streamed at several k",
    ),
    "east": Method(
        pair_options=("--chunks",),
        stage1="toy_east_stage1_full",
        stage1_title="full; chunks of three latencies",
        stage2="toy_east_stage2_lora",
        stage2_title="LoRA on stage 1; chunks and whole sentences",
        merge="toy_east_merge",
        evaluation="toy_east_eval",
        evaluation_title="five latency prompts, four read thresholds",
        closing="One model that decides for itself, at several latency prompts and read thresholds",
    ),
}


def all_steps(output: Path, method: Method) -> list[Step]:
    """Returns the steps in order."""
    data, model, merged = output / "data", output / "model", output / "merged"
    stage1, stage2, evaluation = output / "stage1", output / "stage2", output / "eval"
    pairs = data / "train.jsonl"
    return [
        Step(
            "pairs",
            "making a synthetic language pair",
            script("data/make_toy_pair.py", "--output", data, *SIZES, *method.pair_options),
            data / "test.target",
        ),
        Step(
            "dataset",
            "preparing it for training",
            script("east_scripts/prepare_train_data.py", "--pairs", pairs, "--name", "toy", "--output", data),
            data / "dataset_info.json",
        ),
        Step(
            "model",
            "making a tiny Falcon with ALiBi",
            script("data/make_model.py", "--text", pairs, "--output", model, "--heads", HEADS),
            model / "model.safetensors",
        ),
        Step(
            "stage1",
            f"training, stage 1 ({method.stage1_title})",
            train(method.stage1, data=data, model=model, output=stage1),
            stage1 / "train_results.json",
        ),
        Step(
            "stage2",
            f"training, stage 2 ({method.stage2_title})",
            train(method.stage2, data=data, model=stage1, output=stage2),
            stage2 / "train_results.json",
        ),
        Step(
            "merge",
            "merging the adapter",
            program(
                *("llamafactory-cli", "export", f"yaml_configs/{method.merge}.yaml"),
                *(f"model_name_or_path={stage1}", f"adapter_name_or_path={stage2}", f"export_dir={merged}"),
            ),
            merged / "simulmask.json",
        ),
        Step(
            "verify",
            "checking the merge",
            program("simulmask", "verify-merge", "--base", stage1, "--adapter", stage2, "--merged", merged),
            merged / "simulmask.json",
        ),
        Step(
            "eval",
            f"streaming the test set through SimulEval ({method.evaluation_title})",
            program(
                *("simulmask", "eval", f"yaml_configs/{method.evaluation}.yaml"),
                *(f"model={merged}", f"source={data / 'test.source'}", f"target={data / 'test.target'}"),
                f"output={evaluation}",
            ),
            evaluation / "report.md",
        ),
    ]


def script(path: str, *options: object) -> tuple[str, ...]:
    """Returns the command of a script that may replace what an interrupted one has left."""
    return (sys.executable, path, *(str(option) for option in options), "--overwrite")


def program(name: str, *arguments: object) -> tuple[str, ...]:
    """Returns the command of a program of the environment."""
    return (str(SCRIPTS / name), *(str(argument) for argument in arguments))


def train(config: str, *, data: Path, model: Path, output: Path) -> tuple[str, ...]:
    """Returns the command of a training."""
    return program(
        *("llamafactory-cli", "train", f"yaml_configs/{config}.yaml"),
        *(f"model_name_or_path={model}", f"dataset_dir={data}", f"output_dir={output}"),
        *("overwrite_output_dir=true", "disable_tqdm=true"),
    )


def run_steps(steps: list[Step], logs: Path) -> None:
    """Runs what has not been done yet, with a line of progress for every step.

    Raises:
        RuntimeError: a step failed; the message holds the end of its log.
    """
    logs.mkdir(exist_ok=True)
    previous = 0.0
    for number, step in enumerate(steps, 1):
        log = logs / f"{number}_{step.name}.log"
        print(f"[{number}/{len(steps)}] {step.title} ... ", end="", flush=True)
        if log.is_file() and step.result.exists() and log.stat().st_mtime >= previous:
            print("done before", flush=True)
        else:
            start = time.monotonic()
            run_step(step, log)
            print(f"{time.monotonic() - start:.0f} s", flush=True)
        previous = log.stat().st_mtime


def run_step(step: Step, log: Path) -> None:
    """Runs one step; its log gets its name once the step has succeeded."""
    unfinished = log.with_suffix(".unfinished")
    # One thread: for models so small a second one gains little, and loses much on a machine that is not idle.
    environment = (
        {"OMP_NUM_THREADS": "1"}
        | os.environ
        | {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
            "HF_HUB_OFFLINE": "1",  # nothing is downloaded, so nothing has to wait for a network
            "CUDA_VISIBLE_DEVICES": "",  # sized for a CPU; several GPUs would make another batch of it
        }
    )
    with unfinished.open("w", encoding="utf-8") as file:
        print("$", *step.command, file=file, flush=True)
        code = subprocess.run(step.command, env=environment, stdout=file, stderr=file, check=False).returncode
    if code or not step.result.exists():
        tail = "\n".join(unfinished.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
        reason = f"exit code {code}" if code else f"there is no {step.result}"
        raise RuntimeError(f"failed ({reason}). The end of {unfinished}:\n{tail}")
    unfinished.replace(log)


def table(scores: Path) -> str:
    """Returns the main columns of scores.tsv, aligned."""
    with scores.open(encoding="utf-8", newline="") as file:
        rows = [[row[column] for column in COLUMNS] for row in csv.DictReader(file, delimiter="\t")]
    numbers = [[name, *(f"{float(value):.2f}" for value in values)] for name, *values in rows]
    lines = [list(COLUMNS.values()), *numbers]
    return "\n".join(f"{name:<25}" + "".join(f"{value:>12}" for value in values) for name, *values in lines)


def open_folder(output: Path, *, fresh: bool) -> None:
    """Makes the folder, or makes sure that it is one of ours; ``fresh`` puts an old one aside.

    Raises:
        ValueError: the folder is not empty and was not made by the demo.
    """
    is_ours = (output / MARKER).is_file()
    if output.exists() and any(output.iterdir()) and not is_ours:
        raise ValueError(f"{output} is not empty and was not made by the demo; choose another --output.")
    if fresh and is_ours:
        old = output.with_name(f"{output.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        output.rename(old)
        print(f"The old {output} is now {old}; delete it when you like.")
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()


def demo(output: Path, method: Method, *, prepare: bool, fresh: bool) -> str:
    """Runs the steps and returns the closing words."""
    start = time.monotonic()
    open_folder(output, fresh=fresh)
    steps = all_steps(output, method)
    if prepare:
        steps = steps[: [step.name for step in steps].index(LAST_PREPARATION) + 1]
    run_steps(steps, output / "logs")
    if prepare:
        return f"Data and model: {output / 'data'}, {output / 'model'}"
    return (
        f"\nDone in {time.monotonic() - start:.0f} s. {method.closing}: quality (BLEU, chrF)"
        "\nagainst latency (LAAL, AL: words behind the source).\n\n"
        f"{table(output / 'eval' / 'scores.tsv')}\n\n"
        f"report: {output / 'eval' / 'report.md'}   curve: {output / 'eval' / 'curve.png'}\n"
        f"model:  {output / 'merged'}   logs: {output / 'logs'}"
    )


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--method", choices=METHODS, default="wait_k", help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: output/demo, with another method output/demo_METHOD")
    parser.add_argument("--prepare", action="store_true", help="stop once data and model are there")
    parser.add_argument("--fresh", action="store_true", help="start over; the old folder is renamed")
    options = parser.parse_args()
    folder = "output/demo" if options.method == "wait_k" else f"output/demo_{options.method}"
    output = (options.output or ROOT / folder).resolve()
    os.chdir(ROOT)  # the YAMLs and scripts are named relative to it
    try:
        print(
            demo(Path(os.path.relpath(output)), METHODS[options.method], prepare=options.prepare, fresh=options.fresh)
        )
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
