"""The command ``simulmask``: names and options; what a command does stands in the module that it calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from simulmask_plugin import __version__
from simulmask_plugin.config.block import LAYOUTS, POLICY_NAMES, POSITIONS, ROWS
from simulmask_plugin.evaluation.programs import ProgramFailed, Stopped, programs_end_with_us
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.text.units import UNITS

BLOCK_OPTIONS = (
    "policy",
    "k",
    "n",
    "layout",
    "positions",
    "rows",
    "group_offset",
    "slot_length",
    "source_units",
    "target_units",
)
"""Keys of the block that `simulmask show` takes as options."""

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
    """The options of a command; key=value may stand anywhere, where argparse wants all positional ones in one place."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(one.startswith("-") or "=" not in one for one in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="simulmask",
        description="Simultaneous translation with large language models, as a plugin for LLaMA-Factory.",
        epilog=f"example: simulmask show --k 2\n\n{EXIT_CODES}; SIMULMASK_DEBUG=1 shows the traceback of an error",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"simulmask_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_validate,
        _add_smoke,
        _add_show,
        _add_parity,
        _add_attention,
        _add_eval,
        _add_curve,
        _add_compare,
        _add_verify_merge,
        _add_env,
    ):
        add(commands)
    return parser


Commands = argparse._SubParsersAction


def _command(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_config(
    parser: argparse.ArgumentParser,
    *,
    metavar: str = "CONFIG.yaml",
    example: str = "simulmask.k=5",
    optional: str | None = None,
) -> None:
    """Add a YAML and overrides of its keys; `optional` is the help of a YAML that may be left out."""
    if optional is None:
        parser.add_argument("config", metavar=metavar)
    else:
        parser.add_argument("config", metavar=metavar, nargs="?", help=optional)
    parser.add_argument("overrides", metavar="key=value", nargs="*", help=f"replaces a key, e.g. {example}")


def _add_languages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source-lang", metavar="NAME", help="of a model trained on several language pairs")
    parser.add_argument("--target-lang", metavar="NAME")


def _add_validate(commands: Commands) -> None:
    parser = _command(
        commands,
        "validate",
        "check a training or evaluation YAML without a GPU and without weights",
        "simulmask validate yaml_configs/toy_wait_k_stage1_full.yaml simulmask.k=5",
    )
    _add_config(parser)
    parser.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.validate import run_validate

    return run_validate(options.config, options.overrides)


def _add_smoke(commands: Commands) -> None:
    parser = _command(
        commands,
        "smoke",
        "run training YAMLs for a few steps on what there is, merge, stream, and say what was replaced",
        "simulmask smoke yaml_configs/llama_3_1_8b_wait_k_lora.yaml --tiny",
    )
    parser.add_argument(
        "overrides",
        metavar="TRAIN.yaml | key=value",
        nargs="+",
        help="the stages of a recipe in their order, and keys to replace in all of them",
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny random model in the place of the recipe's own")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="of each training (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", help="keep what is made in this new folder; default: keep nothing")
    parser.set_defaults(run=_smoke)


def _smoke(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.smoke import run_smoke

    return run_smoke(options.overrides, tiny=options.tiny, steps=options.steps, output=options.output)


def _add_show(commands: Commands) -> None:
    parser = _command(
        commands,
        "show",
        "show one example token by token, and its mask as a picture",
        'simulmask show --policy wait_k --k 2 --source "a b c" --target "x y z" --png mask.png',
    )
    _add_config(parser, optional="training YAML: its block, tokenizer and first row of data")
    parser.add_argument("--policy", choices=POLICY_NAMES, help="default: wait_k with k = 3")
    parser.add_argument("--k", help="of wait_k, in source units")
    parser.add_argument("--n", type=int, help="of read_n, in source units")
    parser.add_argument("--schedule", metavar="1,2,3", help="g per target unit, for policy schedule or model_driven")
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--positions", choices=POSITIONS)
    parser.add_argument("--rows", choices=ROWS)
    parser.add_argument("--group-offset", type=int, help="of positions group")
    parser.add_argument("--slot-length", type=int, metavar="N", help="of layout slots, in tokens")
    parser.add_argument("--source-units", choices=UNITS)
    parser.add_argument("--target-units", choices=UNITS)
    parser.add_argument("--source", metavar="TEXT", help="default: the first row of the data, or a short sentence")
    parser.add_argument("--target", metavar="TEXT")
    _add_languages(parser)
    parser.add_argument("--instruction", metavar="TEXT", help="text before the source, where every word is a token")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of a tokenizer; default: every word is a token")
    parser.add_argument("--png", metavar="FILE", help="draw the mask into this file")
    parser.add_argument("--json", action="store_true", help="print the numbers, and nothing else")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.show import run_show

    return run_show(
        options.config,
        options.overrides,
        given={key: getattr(options, key) for key in BLOCK_OPTIONS if getattr(options, key) is not None},
        source=options.source,
        target=options.target,
        languages=(options.source_lang, options.target_lang),
        schedule=options.schedule,
        tokenizer_dir=options.tokenizer,
        instruction=options.instruction,
        png=options.png,
        as_json=options.json,
    )


def _add_parity(commands: Commands) -> None:
    parser = _command(
        commands,
        "parity",
        "compare the logits of training and streaming on random examples",
        "simulmask parity --family llama falcon",
    )
    _add_config(parser, optional="training YAML: its model and block")
    parser.add_argument("--model", metavar="DIR", help="a trained model with its simulmask.json")
    _add_languages(parser)
    parser.add_argument("--family", metavar="NAME", nargs="+", default=[], help="tiny random models; default: all")
    parser.add_argument("--matrix", action="store_true", help="every layout, positions and rows")
    parser.add_argument("--examples", type=int, default=4, metavar="N", help="a cell (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=256, metavar="TOKENS", help="of one long example a model (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of models and examples (default: %(default)s)")
    parser.add_argument("--float64", action="store_true", help="compute in float64, where rounding is no excuse")
    parser.add_argument("--json", action="store_true", help="print a list of records")
    parser.set_defaults(run=_parity)


def _parity(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.parity import run_parity

    return run_parity(
        options.config,
        options.overrides,
        model_dir=options.model,
        languages=(options.source_lang, options.target_lang),
        families=options.family,
        matrix=options.matrix,
        examples=options.examples,
        length=options.length,
        seed=options.seed,
        float64=options.float64,
        as_json=options.json,
    )


def _add_attention(commands: Commands) -> None:
    parser = _command(
        commands,
        "attention",
        "compare the attention of a model in training and in streaming on one example",
        'simulmask attention saves/merged --k 3 --source "ein Haus" --target "a house" --png attention.png',
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model with its simulmask.json")
    parser.add_argument("--source", metavar="TEXT", required=True)
    parser.add_argument("--target", metavar="TEXT", required=True, help="what is written, in training and in streaming")
    _add_languages(parser)
    parser.add_argument(
        "--policy",
        choices=[name for name, policy in POLICIES.items() if policy.streams and not policy.asks_model],
        help="default: as trained",
    )
    parser.add_argument("--k", type=int, help="of wait_k, in source units")
    parser.add_argument("--n", type=int, help="of read_n, in source units")
    parser.add_argument(
        "--latency", metavar="NAME", help="interleaved: for the prompt; default: offline, if that was trained"
    )
    parser.add_argument(
        "--schedule",
        metavar="1,2,3",
        help="g per target unit, in place of a policy; default where the model decides: one chunk",
    )
    parser.add_argument("--layer", type=int, help="only this one, from 0; default: the mean of all")
    parser.add_argument("--head", type=int, help="only this one, from 0; default: the mean of all")
    parser.add_argument("--png", metavar="FILE", help="draw both side by side into this file")
    parser.add_argument("--json", action="store_true", help="print the numbers, and nothing else")
    parser.set_defaults(run=_attention)


def _attention(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.attention import run_attention

    return run_attention(
        options.model,
        texts=(options.source, options.target),
        languages=(options.source_lang, options.target_lang),
        latency=options.latency,
        decision={"policy": options.policy, "k": options.k, "n": options.n},
        schedule=options.schedule,
        layer=options.layer,
        head=options.head,
        png=options.png,
        as_json=options.json,
    )


def _add_eval(commands: Commands) -> None:
    parser = _command(
        commands,
        "eval",
        "stream a test set with SimulEval for every policy of a YAML; write scores, curve and report",
        "simulmask eval yaml_configs/toy_eval.yaml limit=100",
    )
    _add_config(parser)
    parser.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> int:
    from simulmask_plugin.evaluation.run import run_evaluation

    return run_evaluation(options.config, options.overrides)


def _add_curve(commands: Commands) -> None:
    parser = _command(
        commands,
        "curve",
        "draw the curves of several evaluations on the same axes",
        "simulmask curve wait-k=output/demo/eval EAST=output/demo_east/eval --png curves.png",
    )
    parser.add_argument("evaluations", metavar="LABEL=FOLDER", nargs="+", help="output of `simulmask eval`")
    parser.add_argument("--png", metavar="FILE", required=True, help="draw into this file")
    parser.set_defaults(run=_curve)


def _curve(options: argparse.Namespace) -> int:
    from simulmask_plugin.evaluation.curves import run_curve

    return run_curve(options.evaluations, options.png)


def _add_compare(commands: Commands) -> None:
    parser = _command(
        commands,
        "compare",
        "train and stream all systems of a study; write one table, one figure and a report",
        "simulmask compare yaml_configs/toy_compare.yaml jobs=1",
    )
    _add_config(parser, metavar="STUDY.yaml", example="evaluation.limit=50")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from simulmask_plugin.evaluation.run_study import run_compare

    return run_compare(options.config, options.overrides)


def _add_verify_merge(commands: Commands) -> None:
    parser = _command(
        commands,
        "verify-merge",
        "check a merged model against its base and its adapter",
        "simulmask verify-merge --base output/toy --adapter saves/lora --merged saves/merged",
    )
    parser.add_argument("--base", metavar="DIR", required=True, help="what the adapter was trained on")
    parser.add_argument("--adapter", metavar="DIR", required=True, help="output_dir of the training")
    parser.add_argument("--merged", metavar="DIR", required=True, help="export_dir of the merge")
    parser.add_argument("--json", action="store_true", help="print a list of checks")
    parser.set_defaults(run=_verify_merge)


def _verify_merge(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.verify_merge import run_verify_merge

    return run_verify_merge(base=options.base, adapter=options.adapter, merged=options.merged, as_json=options.json)


def _add_env(commands: Commands) -> None:
    parser = _command(
        commands, "env", "list versions, devices, the state of the start-up hook, and what is missing", "simulmask env"
    )
    parser.set_defaults(run=_env)


def _env(options: argparse.Namespace) -> int:
    from simulmask_plugin.commands.env import run_env

    return run_env()
