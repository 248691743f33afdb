"""The options of every command, and what runs it; modules that need torch are imported when a command runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from simulmask_plugin.config.block import SimulMaskConfig, block_keys, keys_of
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.base import Layout
from simulmask_plugin.options import add_option
from simulmask_plugin.policies import POLICIES, Policy

UNIT_KEYS = ("source_units", "target_units")


def _add_config(
    parser: ArgumentParser,
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


def _add_languages(parser: ArgumentParser) -> None:
    parser.add_argument("--source-lang", metavar="NAME", help="of a model trained on several language pairs")
    parser.add_argument("--target-lang", metavar="NAME")


def _block_keys() -> dict[str, list[type[Policy] | type[Layout]]]:
    """The keys of a block that `simulmask show` takes as options, each with the dataclasses that have it."""
    owners: dict[str, list[type[Policy] | type[Layout]]] = {}
    for policy in POLICIES.values():
        for key in block_keys(policy):
            owners.setdefault(key, []).append(policy)
    for layout in LAYOUTS.values():
        for key in keys_of(layout):
            owners.setdefault(key, []).append(layout)
    return owners


def _schedule_keys() -> dict[str, type[Policy]]:
    """The parameters of the policies that make a schedule without a model."""
    policies = [policy for policy in POLICIES.values() if policy.streams and not policy.asks_model]
    return {key: policy for policy in policies for key in policy.parameters()}


def _given(options: Namespace, keys: Iterable[str]) -> dict[str, Any]:
    """The options of these keys that somebody has given."""
    values = vars(options)
    return {key: values[key] for key in keys if values[key] is not None}


def _add_validate(parser: ArgumentParser) -> None:
    _add_config(parser)
    parser.set_defaults(run=_validate)


def _validate(options: Namespace) -> int:
    from simulmask_plugin.commands.validate import run_validate

    return run_validate(options.config, options.overrides)


def _add_smoke(parser: ArgumentParser) -> None:
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


def _smoke(options: Namespace) -> int:
    from simulmask_plugin.commands.smoke import run_smoke

    return run_smoke(options.overrides, tiny=options.tiny, steps=options.steps, output=options.output)


def _add_show(parser: ArgumentParser) -> None:
    _add_config(parser, optional="training YAML: its block, tokenizer and first row of data")
    parser.add_argument("--policy", choices=tuple(POLICIES), help="default: wait_k with k = 3")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="default: prefix")
    for key, owners in _block_keys().items():
        about = "of " + ", ".join(owner.name for owner in owners)
        add_option(parser, key.replace("_", "-"), owners, key, about, several=owners[0] in POLICIES.values())
    for key in UNIT_KEYS:
        add_option(parser, key.replace("_", "-"), [SimulMaskConfig], key, "in which the policy counts")
    parser.add_argument("--schedule", metavar="1,2,3", help="g per target unit, for policy schedule or model_driven")
    parser.add_argument("--source", metavar="TEXT", help="default: the first row of the data, or a short sentence")
    parser.add_argument("--target", metavar="TEXT")
    _add_languages(parser)
    parser.add_argument("--instruction", metavar="TEXT", help="text before the source, where every word is a token")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of a tokenizer; default: every word is a token")
    parser.add_argument("--png", metavar="FILE", help="draw the mask into this file")
    parser.add_argument("--json", action="store_true", help="print the numbers, and nothing else")
    parser.set_defaults(run=_show)


def _show(options: Namespace) -> int:
    from simulmask_plugin.commands.show import run_show

    return run_show(
        options.config,
        options.overrides,
        given=_given(options, ("policy", "layout", *_block_keys(), *UNIT_KEYS)),
        source=options.source,
        target=options.target,
        languages=(options.source_lang, options.target_lang),
        schedule=options.schedule,
        tokenizer_dir=options.tokenizer,
        instruction=options.instruction,
        png=options.png,
        as_json=options.json,
    )


def _add_parity(parser: ArgumentParser) -> None:
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


def _parity(options: Namespace) -> int:
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


def _add_attention(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model with its simulmask.json")
    parser.add_argument("--source", metavar="TEXT", required=True)
    parser.add_argument("--target", metavar="TEXT", required=True, help="what is written, in training and in streaming")
    _add_languages(parser)
    parser.add_argument(
        "--policy",
        choices=[name for name, policy in POLICIES.items() if policy.streams and not policy.asks_model],
        help="default: as trained",
    )
    for key, policy in _schedule_keys().items():
        add_option(parser, key.replace("_", "-"), [policy], key, f"of {policy.name}")
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


def _attention(options: Namespace) -> int:
    from simulmask_plugin.commands.attention import run_attention

    return run_attention(
        options.model,
        texts=(options.source, options.target),
        languages=(options.source_lang, options.target_lang),
        latency=options.latency,
        decision=_given(options, ("policy", *_schedule_keys())),
        schedule=options.schedule,
        layer=options.layer,
        head=options.head,
        png=options.png,
        as_json=options.json,
    )


def _add_eval(parser: ArgumentParser) -> None:
    _add_config(parser)
    parser.set_defaults(run=_eval)


def _eval(options: Namespace) -> int:
    from simulmask_plugin.evaluation.run import run_evaluation

    return run_evaluation(options.config, options.overrides)


def _add_curve(parser: ArgumentParser) -> None:
    parser.add_argument("evaluations", metavar="LABEL=FOLDER", nargs="+", help="output of `simulmask eval`")
    parser.add_argument("--png", metavar="FILE", required=True, help="draw into this file")
    parser.set_defaults(run=_curve)


def _curve(options: Namespace) -> int:
    from simulmask_plugin.evaluation.curves import run_curve

    return run_curve(options.evaluations, options.png)


def _add_compare(parser: ArgumentParser) -> None:
    _add_config(parser, metavar="STUDY.yaml", example="evaluation.limit=50")
    parser.set_defaults(run=_compare)


def _compare(options: Namespace) -> int:
    from simulmask_plugin.evaluation.run_study import run_compare

    return run_compare(options.config, options.overrides)


def _add_verify_merge(parser: ArgumentParser) -> None:
    parser.add_argument("--base", metavar="DIR", required=True, help="what the adapter was trained on")
    parser.add_argument("--adapter", metavar="DIR", required=True, help="output_dir of the training")
    parser.add_argument("--merged", metavar="DIR", required=True, help="export_dir of the merge")
    parser.add_argument("--json", action="store_true", help="print a list of checks")
    parser.set_defaults(run=_verify_merge)


def _verify_merge(options: Namespace) -> int:
    from simulmask_plugin.commands.verify_merge import run_verify_merge

    return run_verify_merge(base=options.base, adapter=options.adapter, merged=options.merged, as_json=options.json)


def _add_env(parser: ArgumentParser) -> None:
    parser.set_defaults(run=_env)


def _env(options: Namespace) -> int:
    from simulmask_plugin.commands.env import run_env

    return run_env()


OPTIONS: Mapping[str, Callable[[ArgumentParser], None]] = {
    "validate": _add_validate,
    "smoke": _add_smoke,
    "show": _add_show,
    "parity": _add_parity,
    "attention": _add_attention,
    "eval": _add_eval,
    "curve": _add_curve,
    "compare": _add_compare,
    "verify-merge": _add_verify_merge,
    "env": _add_env,
}
"""Command -> what adds its options."""
