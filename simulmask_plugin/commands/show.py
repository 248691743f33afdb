"""``simulmask show``: one example as training sees it, from a YAML, a tokenizer, or words alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulmask_plugin.batches.features import Row, whole_schedule
from simulmask_plugin.commands.arguments import ShowOptions
from simulmask_plugin.config.block import SimulMaskConfig, meaningful
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.files.loading import load_tokenizer
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.pictures.picture import (
    describe_schedule,
    draw,
    mask_text,
    shorten_prompt,
    title,
    to_json,
    token_table,
)
from simulmask_plugin.pictures.terminal import console
from simulmask_plugin.policies import POLICIES, FromColumn, ModelDriven, parse_schedule
from simulmask_plugin.text.pieces import SENTENCE_PIECE
from simulmask_plugin.text.prompts import Prompt, escape
from simulmask_plugin.text.units import LETTER, Tokenizer, split_units
from simulmask_plugin.training.chat_prompt import resolve_prompt

EXAMPLE = ("ich habe den Film gesehen", "I have seen the film")
WAIT_3: Mapping[str, Any] = {"policy": "wait_k", "k": 3}
END_OF_SENTENCE = "</s>"
ARROWS = ("->", "<-")
"""Header and next header where every word is a token."""


class WordTokenizer:
    """Every word is one token, with ids from 0 in order of appearance; for examples without a tokenizer."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(dict.fromkeys([*words, END_OF_SENTENCE, LETTER]))
        self.eos_token_id = self.words.index(END_OF_SENTENCE)

    def encode(self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False) -> list[int]:
        """Ids of the words of a text; white space has none. What is glued to the letter before it is a word, too."""
        first, *rest = text.split() or [""]
        glued = first not in self.words and first.startswith(LETTER)
        words = [LETTER, first.removeprefix(LETTER), *rest] if glued else [first, *rest]
        return [self.words.index(word) for word in words if word]

    def decode(self, token_ids: Sequence[int], *, clean_up_tokenization_spaces: bool = False) -> str:
        """The words, with a space between them."""
        return " ".join(self.words[i] for i in token_ids)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The words as SentencePiece marks them."""
        return [SENTENCE_PIECE + self.words[i] for i in ids]

    def __len__(self) -> int:
        """Number of different words."""
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown: a row, under the settings and the seed of a training."""

    tokenizer: Tokenizer
    settings: ModelSettings
    row: Row
    seed: int = 0


def run_show(options: ShowOptions) -> int:
    """Show one example; return the exit code.

    Raises:
        ValueError: if the options contradict each other or the example is wrong.
    """
    _check(options)
    shown = _shown(options)
    config, row = shown.settings.config, shown.row
    if options.schedule is not None:
        row = replace(row, schedule=parse_schedule(options.schedule))
    elif config.policy is ModelDriven and row.schedule is None:
        row = replace(row, schedule=whole_schedule(row, config))
    picture = draw(shown.tokenizer, shown.settings, row, seed=shown.seed)
    short, left_out = shorten_prompt(picture)
    heading = title(config)
    note = f" | without the first {left_out} tokens of the prompt" if left_out else ""
    if options.png is not None:
        from simulmask_plugin.pictures.drawing import save_png

        save_png(short, options.png, heading + note)
    if options.json:
        print(to_json(picture))
        return 0
    out = console()
    out.print(f"{heading}\n{describe_schedule(picture, config)}")
    out.print(token_table(picture, shown.tokenizer))
    out.print(f"mask{note}")
    out.print(mask_text(short, out.width), soft_wrap=True)
    if options.png is not None:
        out.print(f"\nDrawn into {options.png}")
    return 0


def _check(options: ShowOptions) -> None:
    """Refuse options that contradict each other."""
    if (options.source is None) != (options.target is None):
        raise ValueError("Give --source and --target together, or neither.")
    if options.config is not None and options.tokenizer is not None:
        raise ValueError("Give a training YAML or --tokenizer, not both; the YAML names its own tokenizer.")
    if options.instruction is not None and (options.config is not None or options.tokenizer is not None):
        raise ValueError("--instruction needs words alone; a training YAML and a model bring their own prompt.")
    if options.config is not None and options.source is None and (options.source_lang or options.target_lang):
        raise ValueError("--source-lang and --target-lang go with --source and --target; the data has its own.")
    if options.schedule is not None:
        possible, policy = [name for name, policy in POLICIES.items() if policy.from_data], _given(options)["policy"]
        if policy not in possible:
            raise ValueError(f"--schedule goes with --policy {' or '.join(possible)}, got --policy {policy}.")


def _given(options: ShowOptions) -> dict[str, Any]:
    """The keys of the block that the options give; with a schedule, a policy that follows one is among them."""
    if options.schedule is None:
        return options.given
    return {"policy": _own_policy(options.given) or FromColumn.name, **options.given}


def _shown(options: ShowOptions) -> Shown:
    """What is shown: of a training YAML, of the tokenizer's folder, or words alone."""
    if options.config is not None:
        return _of_yaml(options.config, options)
    if options.tokenizer is not None:
        return _of_folder(options.tokenizer, options)
    return _of_words(options)


def _of_yaml(path: str, options: ShowOptions) -> Shown:
    from simulmask_plugin.commands.training_yaml import load_training, read_data

    setup = load_training(path, options.overrides, to_run=False)
    settings = replace(setup.settings, config=setup.settings.config.with_keys(_given(options)))
    row = read_data(setup)[0].first if options.source is None else _row(options, settings)
    return Shown(setup.tokenizer, settings, row, setup.training_args.seed)


def _of_folder(folder: str, options: ShowOptions) -> Shown:
    """The settings are those of the simulmask.json in it, or the plain prompt if there is none."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; expected one with a tokenizer.")
    tokenizer = load_tokenizer(folder)
    if Path(folder, FILE_NAME).is_file():
        settings = ModelSettings.load(folder)
        settings = replace(settings, config=settings.config.with_keys(_given(options)))
    else:
        config = _block(_given(options))
        settings = ModelSettings(config, resolve_prompt(config, None, tokenizer))
    return Shown(tokenizer, settings, _row(options, settings))


def _of_words(options: ShowOptions) -> Shown:
    config, instruction = _block(_given(options)), options.instruction or ""
    marks = config.layout.special_tokens or ARROWS[: 1 + config.layout.has_next_header]
    prompt = Prompt(escape(instruction), *marks)
    settings = ModelSettings(config, prompt)
    row = _row(options, settings)
    words = [
        *split_units(row.source, config.source_units),
        *prompt.header.split(),
        *split_units(row.target, config.target_units),
        *prompt.next_header.split(),
        *instruction.split(),
    ]
    return Shown(WordTokenizer(words), settings, row)


def _block(given: Mapping[str, Any]) -> SimulMaskConfig:
    """A block of the given keys, wait-3 where they name no policy, with every look-ahead row unless they say less."""
    has_policy = "policy" in given or _own_policy(given)
    keys = dict(given) if has_policy else {**WAIT_3, **given}
    return SimulMaskConfig.from_dict({**meaningful({"look_ahead_rate": 1.0, **keys}), **keys})


def _own_policy(given: Mapping[str, Any]) -> str | None:
    """The only policy of the layout that the keys name."""
    layout = LAYOUTS.get(given.get("layout", ""))
    return layout.policy.name if layout is not None and layout.policy is not None else None


def _row(options: ShowOptions, settings: ModelSettings) -> Row:
    """The text of the options, or the example."""
    source, target = EXAMPLE if options.source is None or options.target is None else (options.source, options.target)
    return Row(source, target, *settings.pair(options.source_lang, options.target_lang))
