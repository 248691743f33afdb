"""Runs the whole process on a synthetic language pair: data, model, two trainings, merge, streaming, curve.

    python east_scripts/demo.py                                # make demo: everything, into output/demo
    python east_scripts/demo.py --method east                  # make demo-east: the same for EAST
    python east_scripts/demo.py --method compare               # make demo-compare: every method, side by side
    python east_scripts/demo.py --output output/toy --prepare  # data and model, for yaml_configs/toy_*.yaml

Every step is a command that you could type; its log, which begins with the command, is in OUTPUT/logs. A finished
step is not repeated unless an earlier one is; --fresh starts over.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas
from lag_order import TIE, Order, check_order

from simulmask_plugin.evaluation.programs import Stopped, programs_end_with_us, run_program

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent

MARKER = ".simulmask_demo"
"""A file in every folder that the demo has made; it only writes to these."""

SIZES = ("--train", 40000, "--valid", 200, "--test", 150)
HEADS = 16
"""Many small heads: Falcon divides ALiBi by the root of the head size, and word order depends on ALiBi."""

THREADS = min(2, os.cpu_count() or 1)
"""On an idle machine, the second makes training 1.8 times as fast, and further ones gain little in so small a model.
Beside other work it loses as much: there, OMP_NUM_THREADS=1 make demo. A study has `threads` of its own."""

LAST_PREPARATION = "model"


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the file that it creates."""

    name: str
    title: str
    command: tuple[str, ...]
    result: Path

    @property
    def beginning(self) -> str:
        """The first line of its log: the command."""
        return " ".join(["$", *self.command]) + "\n"

    def is_done(self, log: Path) -> bool:
        """Whether exactly this command has run and created its result."""
        if not (log.is_file() and self.result.exists()):
            return False
        with log.open(encoding="utf-8", errors="replace") as file:
            return file.read(len(self.beginning)) == self.beginning


@dataclass(frozen=True, slots=True)
class Method:
    """What is specific to the demo of a method."""

    pair_options: tuple[str, ...]
    steps: Callable[[Path], list[Step]]
    """The steps after the preparation; the argument is the output folder."""
    columns: dict[str, str]
    """Columns of the table in the file of scores, and their titles."""
    closing: str
    results: dict[str, str]
    """Paths below the output; `scores` is the file of scores."""
    orders: tuple[Order, ...] = ()
    """What has to hold at the end."""


def all_steps(output: Path, method: Method) -> list[Step]:
    """Returns the steps in order."""
    data, model = output / "data", output / "model"
    pairs = data / "train.jsonl"
    preparation = [
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
    ]
    return preparation + method.steps(output)


def two_stages(output: Path, name: str, *, merge: str, titles: tuple[str, str, str]) -> list[Step]:
    """Returns training in two stages, merge and evaluation with yaml_configs/toy_*.yaml.

    Args:
        output: folder of the demo.
        name: part of the names of the YAMLs of both stages.
        merge: YAML of the merge; with eval instead of merge, its name is that of the evaluation.
        titles: of stage 1, stage 2 and the evaluation.
    """
    data, model, merged = output / "data", output / "model", output / "merged"
    stage1, stage2, evaluation = output / "stage1", output / "stage2", output / "eval"
    first, second, third = titles
    return [
        Step(
            "stage1",
            f"training, stage 1 ({first})",
            train(f"toy_{name}_stage1_full", data=data, model=model, output=stage1),
            stage1 / "train_results.json",
        ),
        Step(
            "stage2",
            f"training, stage 2 ({second})",
            train(f"toy_{name}_stage2_lora", data=data, model=stage1, output=stage2),
            stage2 / "train_results.json",
        ),
        Step(
            "merge",
            "merging the adapter",
            program(
                *("llamafactory-cli", "export", f"yaml_configs/{merge}.yaml"),
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
            f"streaming the test set through SimulEval ({third})",
            program(
                *("simulmask", "eval", f"yaml_configs/{merge.replace('merge', 'eval')}.yaml"),
                *(f"model={merged}", f"source={data / 'test.source'}", f"target={data / 'test.target'}"),
                f"output={evaluation}",
            ),
            evaluation / "report.md",
        ),
    ]


def comparison(output: Path) -> list[Step]:
    """Returns the study, which trains, merges and streams everything, and resumes where it stopped."""
    data, study = output / "data", output / "compare"
    return [
        Step(
            "compare",
            "training and streaming every method (its progress: the log of this step)",
            program(
                *("simulmask", "compare", "yaml_configs/toy_compare.yaml", f"output={study}"),
                *(f"training.model_name_or_path={output / 'model'}", f"training.dataset_dir={data}"),
                *(f"evaluation.source={data / 'test.source'}", f"evaluation.target={data / 'test.target'}"),
            ),
            study / "compare.html",
        )
    ]


EVALUATION_COLUMNS = {
    "name": "policy",
    "bleu": "BLEU",
    "chrf": "chrF",
    "laal": "LAAL",
    "al": "AL",
    "calls_per_token": "calls/token",
    "seconds_per_sentence": "s/sentence",
}
EVALUATION_RESULTS = {
    "scores": "eval/scores.tsv",
    "report": "eval/report.md",
    "curve": "eval/curve.png",
    "model": "merged",
}

METHODS = {
    "wait_k": Method(
        pair_options=(),
        steps=partial(
            two_stages,
            name="wait_k",
            merge="toy_merge",
            titles=("full; k = 5, 9 and offline", "LoRA on stage 1; every k", "k = 1, 3, 5, 7, 9 and offline"),
        ),
        columns=EVALUATION_COLUMNS,
        closing="One model, streamed at several k",
        results=EVALUATION_RESULTS,
        orders=(Order("the lag rises with k", (*(f"wait_k-{k}" for k in (1, 3, 5, 7, 9)), "offline")),),
    ),
    "east": Method(
        pair_options=("--chunks",),
        steps=partial(
            two_stages,
            name="east",
            merge="toy_east_merge",
            titles=(
                "full; chunks of three latencies",
                "LoRA on stage 1; chunks and whole sentences",
                "five latency prompts, four read thresholds",
            ),
        ),
        columns=EVALUATION_COLUMNS,
        closing="One model that decides for itself, at several latency prompts and read thresholds",
        results=EVALUATION_RESULTS,
        orders=(
            Order("the lag rises with the latency prompt", ("low", "medium", "high")),
            Order(
                "the lag rises with the read threshold",
                tuple(f"medium-{threshold}" for threshold in (0.0001, 0.01, 0.99, 0.9999)),
                tie=TIE,
            ),
        ),
    ),
    "compare": Method(
        pair_options=("--chunks",),
        steps=comparison,
        columns={
            "system": "system",
            "policy": "policy",
            "BLEU": "BLEU",
            "LAAL": "LAAL",
            "calls / token": "calls/token",
            "time / epoch": "time/epoch",
            "tokens / epoch": "tokens/epoch",
        },
        closing="Every method on the same data (time and tokens of an epoch: multiples of plain fine-tuning)",
        results={
            "scores": "compare/compare.tsv",
            "report": "compare/compare.html",
            "figure": "compare/compare.png",
            "models": "compare/models",
        },
    ),
}


def script(path: str, *options: object) -> tuple[str, ...]:
    """Returns the command of a script, which may overwrite the files of an interrupted one."""
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
    """Runs the steps that are not finished, with a line of progress for each.

    Raises:
        RuntimeError: a step failed (`ProgramFailed`: the message holds the end of its log) or left no result.
    """
    logs.mkdir(exist_ok=True)
    previous = 0.0
    for number, step in enumerate(steps, 1):
        log = logs / f"{number}_{step.name}.log"
        print(f"[{number}/{len(steps)}] {step.title} ... ", end="", flush=True)
        if step.is_done(log) and log.stat().st_mtime >= previous:
            print("done before", flush=True)
        else:
            start = time.monotonic()
            run_step(step, log)
            print(f"{time.monotonic() - start:.0f} s", flush=True)
        previous = log.stat().st_mtime


def run_step(step: Step, log: Path) -> None:
    """Runs one step; its log gets its name once the step has succeeded."""
    unfinished = log.with_suffix(".unfinished")
    environment = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(THREADS)),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",  # nothing is downloaded, so nothing has to wait for a network
        "CUDA_VISIBLE_DEVICES": "",  # sized for a CPU; several GPUs would make another batch of it
    }

    def begin() -> None:
        unfinished.write_text(step.beginning, encoding="utf-8")

    run_program(step.title, step.command, unfinished, environment, prepare=begin)
    if not step.result.exists():
        raise RuntimeError(f"{step.title} has left no {step.result}; its log is {unfinished}.")
    unfinished.replace(log)


def table(scores: Path, columns: dict[str, str]) -> str:
    """Returns some columns of a file of scores, aligned; text is left-aligned."""
    frame = pandas.read_csv(scores, sep="\t")[list(columns)].rename(columns=columns)
    texts = frame.select_dtypes("object")
    for name in texts:
        frame[name] = frame[name].str.ljust(frame[name].str.len().max())
    return frame.to_string(index=False, float_format="{:.2f}".format)


def open_folder(output: Path, *, fresh: bool) -> None:
    """Makes the folder, or checks that the demo made it; ``fresh`` renames an old one.

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


def demo(output: Path, method: Method, *, prepare: bool, fresh: bool) -> None:
    """Runs the steps, prints the results, and checks them.

    Raises:
        RuntimeError: a step failed, or the lag is not ordered as it has to be.
    """
    start = time.monotonic()
    open_folder(output, fresh=fresh)
    steps = all_steps(output, method)
    if prepare:
        steps = steps[: [step.name for step in steps].index(LAST_PREPARATION) + 1]
    run_steps(steps, output / "logs")
    if prepare:
        print(f"Data and model: {output / 'data'}, {output / 'model'}")
        return
    scores = output / method.results["scores"]
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. {method.closing}: quality (BLEU)"
        "\nagainst latency (LAAL: words behind the source).\n\n"
        f"{table(scores, method.columns)}\n\n"
        + "   ".join(f"{name}: {output / path}" for name, path in {**method.results, "logs": "logs"}.items())
    )
    for order in method.orders:
        print(check_order(scores, order))


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
        with programs_end_with_us():
            demo(Path(os.path.relpath(output)), METHODS[options.method], prepare=options.prepare, fresh=options.fresh)
    except Stopped as stop:
        print(f"{parser.prog}: ended by {stop}; what is finished is kept.", file=sys.stderr)
        sys.exit(128 + stop.number)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
