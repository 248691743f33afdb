"""The command ``simulmask``: names of commands and exit codes; options are in `commands.arguments`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from simulmask_plugin import __version__
from simulmask_plugin.evaluation.programs import ProgramFailed, Stopped, programs_end_with_us

COMMANDS: Mapping[str, tuple[str, str]] = {
    "validate": (
        "check a training or evaluation YAML without a GPU and without weights",
        "simulmask validate yaml_configs/toy_wait_k_stage1_full.yaml simulmask.k=5",
    ),
    "smoke": (
        "run training YAMLs for a few steps on this machine, merge, stream, and say what was replaced",
        "simulmask smoke yaml_configs/llama_3_1_8b_wait_k_lora.yaml --tiny",
    ),
    "show": (
        "show one example token by token, and its mask as a picture",
        'simulmask show --policy wait_k --k 2 --source "a b c" --target "x y z" --png mask.png',
    ),
    "parity": (
        "compare the logits of training and streaming on random examples",
        "simulmask parity --family llama falcon",
    ),
    "attention": (
        "compare the attention of a model in training and in streaming on one example",
        'simulmask attention saves/merged --k 3 --source "ein Haus" --target "a house" --png attention.png',
    ),
    "heads": (
        "find the attention heads that align, for policy alignatt, and save them beside the model",
        "simulmask heads saves/merged --source dev.de --target dev.en --alignments dev.links",
    ),
    "probe": (
        "fit the probe that policy stability asks, and save it beside the model",
        "simulmask probe saves/merged --source train.de --target train.en",
    ),
    "translate": (
        "translate with a trained model, writing while it reads",
        'simulmask translate saves/merged --policy wait_k --k 3 --text "ein kleines Haus am See"',
    ),
    "serve": (
        "serve a trained model to many clients: a page, a websocket, server-sent events, and recognized speech",
        "simulmask serve saves/merged --policy wait_k --k 3",
    ),
    "calibrate": (
        "find the thresholds with which a policy reaches latencies, on a dev set, and keep them with the model",
        "simulmask calibrate saves/merged --policy confidence --source dev.de --target dev.en --laal 3 4 5",
    ),
    "eval": (
        "stream a test set with SimulEval for every policy of a YAML; write scores, curve and report",
        "simulmask eval yaml_configs/toy_eval.yaml limit=100",
    ),
    "trace": (
        "draw one streamed sentence: what had been read when each target unit was written, beside the reference",
        "simulmask trace output/demo/eval 17 --policy wait_k-3 --png trace.png",
    ),
    "curve": (
        "draw the curves of several evaluations on the same axes",
        "simulmask curve wait-k=output/demo/eval EAST=output/demo_east/eval --png curves.png",
    ),
    "compare": (
        "train and stream all systems of a study; write one table, one figure and a report",
        "simulmask compare yaml_configs/toy_compare.yaml jobs=1",
    ),
    "verify-merge": (
        "check a merged model against its base and its adapter",
        "simulmask verify-merge --base output/toy --adapter saves/lora --merged saves/merged",
    ),
    "env": ("list versions, devices, the state of the start-up hook, and what is missing", "simulmask env"),
}
"""Name -> what the command does, and an example."""

EXIT_CODES = "exit codes: 0 ok, 1 a check failed, 2 bad input"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 (ok), 1 (a check failed), 2 (bad input), or 130 and 143 (Ctrl-C, SIGTERM)."""
    options = parse(arguments)
    try:
        with programs_end_with_us():
            return options.run(options)
    except Stopped as stop:
        print(f"simulmask: ended by {stop}; what is finished is kept.", file=sys.stderr)
        return 128 + stop.number  # as shells have it
    except (ValueError, OSError) as error:
        if os.environ.get("SIMULMASK_DEBUG") == "1":
            raise
        print(f"simulmask: error: {error}", file=sys.stderr)
        return 2
    except ProgramFailed as error:
        print(f"simulmask: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command; key=value may be anywhere, while argparse wants all positional ones in one place."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(one.startswith("-") or "=" not in one for one in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; it gets its options only when it parses, so that `simulmask --help` stays light."""

    command = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the options first."""
        if self.command:
            from simulmask_plugin.commands.arguments import add_options

            add_options(self, self.command)
            self.command = ""
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="simulmask",
        description="Simultaneous translation with large language models, as a plugin for LLaMA-Factory.",
        epilog=f"example: simulmask show --k 2\n\n{EXIT_CODES}; SIMULMASK_DEBUG=1 shows the traceback of an error",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"simulmask_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, (summary, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.command = name
    return parser
