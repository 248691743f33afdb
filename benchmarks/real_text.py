"""Real tokenizers on real text: are units encoded as the whole sentence is, and do they come back as they went in?

    python benchmarks/real_text.py --tokenizers FOLDER ... --texts FILE ...

A folder holds a tokenizer, a file one sentence a line. Of each pair, in sentences:

- refused: cannot be encoded unit by unit;
- other ids: the units' tokens, one after another, are not those of the sentence encoded whole behind the same text;
- cut elsewhere: a session that writes these tokens one by one finds other units in them than training has;
- text differs: what a session sends is not the text, white space apart;
- its own doing: of these, where decoding the sentence encoded whole gives another text in the same way.

Exits with 1 where a sentence is refused or cut elsewhere, or its text differs by more than the tokenizer's own doing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas
from transformers import AutoTokenizer

from simulmask_plugin.units import CHARACTER, WORD, NotEncodable, UnitTokenizer, join_units, split_units

BEFORE = {True: "x", False: "\n"}
"""Text before a sentence that begins with white space, and before one that does not."""


def measure(units: UnitTokenizer, lines: Iterable[str], spaced: bool) -> Counter[str]:
    """Count what the lines do."""
    counts: Counter[str] = Counter()
    anchor = BEFORE[spaced]
    num_anchor = len(units.tokenizer.encode(anchor, add_special_tokens=False))
    for line in lines:
        pieces = split_units(line, units.unit)
        if not pieces:
            continue
        counts["sentences"] += 1
        try:
            encoded = units.encode_all(line, spaced=spaced)
        except NotEncodable as error:
            print(error, file=sys.stderr)
            counts["refused"] += 1
            continue
        ids = [token for unit in encoded for token in unit]
        text = join_units(pieces, units.unit)
        behind = anchor + " " * (spaced and units.unit == WORD) + text
        whole = units.tokenizer.encode(behind, add_special_tokens=False, split_special_tokens=True)[num_anchor:]
        counts["tokens"] += len(ids)
        counts["tokens whole"] += len(whole)
        counts["other ids"] += ids != whole
        cut = units.cut(ids)
        counts["cut elsewhere"] += cut != encoded
        sent = join_units([units.text(unit) for unit in cut], units.unit)
        if sent != text:
            counts["text differs"] += 1
            counts["its own doing"] += sent.split() == units.text(whole).split()
    return counts


def main() -> int:
    """Measure every pair; print a table of sums over the files."""
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
        rows.append({"tokenizer": Path(folder).name, **counts})
    names = ["sentences", "refused", "other ids", "cut elsewhere", "text differs", "its own doing"]
    table = pandas.DataFrame(rows).reindex(columns=["tokenizer", *names, "tokens", "tokens whole"]).fillna(0)
    print(table.to_markdown(index=False, floatfmt=".0f") if False else table.to_string(index=False))
    wrong = table["refused"] + table["cut elsewhere"] + table["text differs"] - table["its own doing"]
    return int(wrong.sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
