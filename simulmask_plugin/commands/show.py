"""``simulmask show``: one example as training sees it, from a YAML, a tokenizer, or words alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulmask_plugin.batches.features import Row, whole_schedule
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.config.trained_on import Languages
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


def run_show(
    config_path: str | None,
    overrides: list[str],
    *,
    given: Mapping[str, Any],
    source: str | None,
    target: str | None,
    languages: Languages = (None, None),
    schedule: str | None,
    tokenizer_dir: str | None,
    instruction: str | None,
    png: str | None,
    as_json: bool,
) -> int:
    """Show one example; return the exit code.

    Args:
        config_path: a training YAML, whose block, tokenizer and first row of data are the defaults.
        overrides: ``key=value`` for keys of the YAML.
        given: keys of the ``simulmask:`` block that replace its own.
        source: text of the source, together with ``target``.
        target: text of the target.
        languages: source_lang and target_lang of these texts; None: whichever was trained (`ModelSettings.pair`).
        schedule: g, for policy ``schedule``, which is the default with it.
        tokenizer_dir: folder of a tokenizer or model, in place of a YAML.
        instruction: text before the source, where every word is a token; else the YAML or the model has its own.
        png: file to draw the mask into.
        as_json: print the numbers, and nothing else.

    Raises:
        ValueError: if the options contradict each other or the example is wrong.
    """
    if (source is None) != (target is None):
        raise ValueError("Give --source and --target together, or neither.")
    if config_path is not None and tokenizer_dir is not None:
        raise ValueError("Give a training YAML or --tokenizer, not both; the YAML names its own tokenizer.")
    if instruction is not None and (config_path is not None or tokenizer_dir is not None):
        raise ValueError("--instruction needs words alone; a training YAML and a model bring their own prompt.")
    if schedule is not None:
        given = {"policy": _own_policy(given) or FromColumn.name} | dict(given)
        possible = [name for name, policy in POLICIES.items() if policy.from_data]
        if given["policy"] not in possible:
            raise ValueError(f"--schedule goes with --policy {' or '.join(possible)}, got --policy {given['policy']}.")
    texts = None if source is None or target is None else (source, target)
    if config_path is not None and texts is None and any(languages):
        raise ValueError("--source-lang and --target-lang go with --source and --target; the data has its own.")
    tokenizer, settings, row, seed = _inputs(
        config_path, overrides, tokenizer_dir, given, texts, languages, instruction or ""
    )
    if schedule is not None:
        row = replace(row, schedule=parse_schedule(schedule))
    elif settings.config.policy is ModelDriven and row.schedule is None:
        row = replace(row, schedule=whole_schedule(row, settings.config))
    picture = draw(tokenizer, settings, row, seed=seed)
    heading = title(settings.config)
    short, left_out = shorten_prompt(picture)
    note = f" | without the first {left_out} tokens of the prompt" if left_out else ""
    if png is not None:
        from simulmask_plugin.pictures.drawing import save_png

        save_png(short, png, heading + note)
    if as_json:
        print(to_json(picture))
        return 0
    out = console()
    out.print(f"{heading}\n{describe_schedule(picture, settings.config)}")
    out.print(token_table(picture, tokenizer))
    out.print(f"mask{note}")
    out.print(mask_text(short, out.width), soft_wrap=True)
    if png is not None:
        out.print(f"\nDrawn into {png}")
    return 0


def _inputs(
    config_path: str | None,
    overrides: list[str],
    tokenizer_dir: str | None,
    given: Mapping[str, Any],
    texts: tuple[str, str] | None,
    languages: Languages,
    instruction: str,
) -> tuple[Tokenizer, ModelSettings, Row, int]:
    """Tokenizer, settings, row and seed, from the YAML, from the tokenizer's folder, or from words alone."""
    if config_path is not None:
        from simulmask_plugin.commands.training_yaml import load_training, read_data

        setup = load_training(config_path, overrides, to_run=False)
        settings = replace(setup.settings, config=setup.settings.config.with_keys(given))
        row = read_data(setup)[0].first if texts is None else _row(texts, settings, languages)
        return setup.tokenizer, settings, row, setup.training_args.seed
    if tokenizer_dir is not None:
        tokenizer, settings = load_settings(tokenizer_dir, given)
        return tokenizer, settings, _row(texts or EXAMPLE, settings, languages), 0
    config = _block(given)
    marks = config.layout.special_tokens or ARROWS[: 1 + config.layout.has_next_header]
    prompt = Prompt(escape(instruction), *marks)
    settings = ModelSettings(config, prompt)
    row = _row(texts or EXAMPLE, settings, languages)
    words = [
        *split_units(row.source, config.source_units),
        *prompt.header.split(),
        *split_units(row.target, config.target_units),
        *prompt.next_header.split(),
        *instruction.split(),
    ]
    return WordTokenizer(words), settings, row, 0


def _block(given: Mapping[str, Any]) -> SimulMaskConfig:
    """A block of the given keys, wait-3 where they name no policy."""
    has_policy = "policy" in given or _own_policy(given)
    return SimulMaskConfig.from_dict(dict(given) if has_policy else {**WAIT_3, **given})


def _own_policy(given: Mapping[str, Any]) -> str | None:
    """The only policy of the layout that the keys name."""
    layout = LAYOUTS.get(given.get("layout", ""))
    return layout.policy.name if layout is not None and layout.policy is not None else None


def _row(texts: tuple[str, str], settings: ModelSettings, languages: Languages) -> Row:
    return Row(*texts, *settings.pair(*languages))


def load_settings(folder: str, given: Mapping[str, Any]) -> tuple[Any, ModelSettings]:
    """A tokenizer and the settings in the simulmask.json beside it, or the plain prompt where there is none."""
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; expected one with a tokenizer.")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if Path(folder, FILE_NAME).is_file():
        settings = ModelSettings.load(folder)
        return tokenizer, replace(settings, config=settings.config.with_keys(given))
    config = _block(given)
    return tokenizer, ModelSettings(config, resolve_prompt(config, None, tokenizer))
