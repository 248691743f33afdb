"""Real tokenizers on real text: do units get the tokens of the whole sentence, and does decoding restore the text?

    python benchmarks/real_text.py --tokenizers FOLDER ... --texts FILE ... [--unit character]

A folder holds a tokenizer, a file one sentence a line. Words are tried with white space before the first and without.
Counted in sentences:

- refused: cannot be encoded unit by unit;
- other ids: the tokens of the units, one after another, are not those of the sentence encoded whole;
- taken together: a session that writes these tokens takes several units for one (characters: where a token is a part
  of one, so that the next token does not yet tell whether it is a mark); training does the same;
- text differs: what a session sends is not the text, white space apart;
- its own doing: of these, those whose text the tokenizer changes in the same way when it encodes the sentence whole.

Exits with 1 where a sentence is refused, a word is taken together with another, or a text differs by more than the
tokenizer's own doing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path

import pandas
from transformers import AutoTokenizer

from simulmask_plugin.text.units import (
    CHARACTER,
    LETTER,
    LINE_BREAK,
    WORD,
    NotEncodable,
    UnitTokenizer,
    join_units,
    split_units,
)

COUNTS = ("sentences", "refused", "other ids", "taken together", "text differs", "its own doing")
"""The counts, in the order of the table, followed by tokens per token of the whole sentence."""


def measure(units: UnitTokenizer, lines: Iterable[str], spaced: bool) -> Counter[str]:
    """Count the results of the lines."""
    counts: Counter[str] = Counter()
    text_of = cache(units.text)
    for line in filter(str.strip, lines):
        counts["sentences"] += 1
        try:
            encoded = units.encode_all(line, spaced=spaced)
        except NotEncodable as error:
            print(error, file=sys.stderr)
            counts["refused"] += 1
            continue
        ids = list(chain.from_iterable(encoded))
        text = join_units(split_units(line, units.unit), units.unit)
        whole = encode_whole(units, text, spaced)
        cut = units.cut(ids)
        sent = join_units([text_of(tuple(unit)) for unit in cut], units.unit)
        counts["tokens"] += len(ids)
        counts["tokens whole"] += len(whole)
        counts["other ids"] += ids != whole
        counts["taken together"] += cut != encoded
        counts["text differs"] += sent != text
        counts["its own doing"] += sent != text and sent == text_of(tuple(whole))
    return counts


def encode_whole(units: UnitTokenizer, text: str, spaced: bool) -> list[int]:
    """Token ids of a sentence that is encoded whole, after the same text as the first unit."""
    before = LETTER if spaced else LINE_BREAK
    num_before = len(units.tokenizer.encode(before, add_special_tokens=False))
    ids = units.tokenizer.encode(before + " " * spaced + text, add_special_tokens=False, split_special_tokens=True)
    return ids[num_before:]


def main() -> int:
    """Measure every tokenizer on all files; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", nargs="+", metavar="FOLDER", required=True)
    parser.add_argument("--texts", nargs="+", metavar="FILE", required=True)
    parser.add_argument("--unit", choices=(WORD, CHARACTER), default=WORD)
    options = parser.parse_args()
    rows = []
    for folder in options.tokenizers:
        units = UnitTokenizer(AutoTokenizer.from_pretrained(folder), options.unit)
        counts: Counter[str] = Counter()
        for path in options.texts:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
            for spaced in (True, False) if options.unit == WORD else (False,):
                counts += measure(units, lines, spaced)
        ratio = counts["tokens"] / counts["tokens whole"]
        row = {"tokenizer": Path(folder).name, **{name: counts[name] for name in COUNTS}, "tokens / whole": ratio}
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    table = pandas.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    wrong = table["refused"] + table["text differs"] - table["its own doing"]
    if options.unit == WORD:
        wrong += table["taken together"]
    return int(wrong.sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
