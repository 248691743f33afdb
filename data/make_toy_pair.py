"""Writes a synthetic language pair for which waiting pays off, small enough for a model of about 1 M parameters.

The source is subject-verb-object, the target is verb-final; the other words have the same order. The
translation of a word often depends on later source words. With English words::

    source   maybe  the    big    bank   lends     a    car    today  PAST
    target   maybe' the-f  big-f  bank'  a-m  car'  today'  lend-f-sg-past

- Only the target noun determines gender. Determiners, adjectives and verbs agree with it in gender and
  number, so a determiner has to wait for its noun.
- A homonym (only ever a subject) has two translations of different gender; the verb of its clause decides.
- The last word of a sentence is its tense: it determines the endings of all target verbs, and the translation of
  the mood word with which one sentence in four begins.

A model that translates after one word has to guess all of these; wait-9 rarely has to.

    python data/make_toy_pair.py    # the committed sample, data/toy
    python data/make_toy_pair.py --output output/big_toy/pairs --train 100000 --valid 500 --test 500

It writes train.jsonl, valid.jsonl, test.jsonl (no source sentence twice) and test.source, test.target for
SimulEval. The test set depends only on the seed and its own size. With --chunks, each split is also written as chunk
pairs of several latency levels, cut by the word alignment of the grammar: a verb is linked to its verb and to
the tense, any other word to its translation. Gender and number of a later noun are not links, so
low latency has to guess them.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from simulmask_plugin.corpora.chunking import CHUNK_COLUMNS, Chunker, Link, parse_levels, statistics_table
from simulmask_plugin.corpora.dataset_info import Dataset, dataset_info_with
from simulmask_plugin.corpora.parallel_text import Pair, check_absent, write_jsonl, write_lines, write_rows

MIN_WORDS, MAX_WORDS = 3, 14
"""Length of a source sentence."""

GENDER_ENDINGS = {False: ("o", "a", "e"), True: ("oi", "ai", "ei")}
"""Target: plural or not -> endings of determiners, adjectives and verbs by gender."""

TENSE_ENDINGS = ("t", "r", "n")
"""Target: the last letter of a verb by tense. No other word ends in one of these letters."""

SOURCE_LANG, TARGET_LANG = "X", "Y"
"""Names of the languages in the rows of --chunks, those of the toy's YAMLs."""

SOURCE_PLURAL, TARGET_PLURAL = "n", "u"
"""Endings of plural nouns; singular nouns have none."""


@dataclass(frozen=True, slots=True)
class Word:
    """A lemma with its stems on both sides."""

    source: str
    target: str
    gender: int = 0
    """Of a noun or a name, 0 to 2."""
    sense: int = 0
    """Of a verb: which translation of a homonym it goes with, 0 or 1."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of both sides, their links, and gender and number of a noun phrase."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    gender: int = 0
    plural: bool = False


class Lexicon:
    """The lemmas of both languages, drawn from a seed; no two of them share a stem."""

    def __init__(self, seed: int) -> None:
        """Draws every stem."""
        self._random = random.Random(f"lexicon {seed}")
        self._used: set[str] = set()
        self.determiners = self._words(2, syllables=1)
        self.relatives = self._words(1, syllables=1)
        self.conjunctions = self._words(3, syllables=1)
        self.prepositions = self._words(5, syllables=1)
        self.nouns = self._words(60, syllables=2)
        self.names = self._words(10, syllables=2)
        self.adjectives = self._words(28, syllables=2)
        self.verbs = self._words(36, syllables=2)
        self.adverbs = self._words(12, syllables=3)
        self.tenses = tuple(self._source_stem(1) for _ in TENSE_ENDINGS)
        self.homonyms = tuple(self._translations(2) for _ in range(6))
        """Two translations each, by the sense of the verb."""
        self.moods = tuple(self._translations(len(TENSE_ENDINGS)) for _ in range(3))
        """Three translations each, by tense."""

    def _words(self, count: int, *, syllables: int) -> tuple[Word, ...]:
        return tuple(
            Word(
                self._source_stem(syllables),
                self._target_stem(syllables),
                gender=self._random.randrange(3),
                sense=index % 2,
            )
            for index in range(count)
        )

    def _translations(self, count: int) -> tuple[Word, ...]:
        """Returns one source stem with several translations, each of another gender."""
        source = self._source_stem(2)
        return tuple(Word(source, self._target_stem(2), gender=gender) for gender in range(count))

    def _source_stem(self, syllables: int) -> str:
        return self._unused(lambda: "".join(self._syllable("bdfgklmprst", "aeiou") for _ in range(syllables)))

    def _target_stem(self, syllables: int) -> str:
        return self._unused(
            lambda: (
                "".join(self._syllable("bcghjkmpvwxz", "aeiou") for _ in range(syllables))
                + self._random.choice("dkmpsx")
            )
        )

    def _syllable(self, consonants: str, vowels: str) -> str:
        return self._random.choice(consonants) + self._random.choice(vowels)

    def _unused(self, draw: Callable[[], str]) -> str:
        stem = draw()
        while stem in self._used:
            stem = draw()
        self._used.add(stem)
        return stem


class Grammar:
    """Draws sentences with their translations."""

    def __init__(self, lexicon: Lexicon, seed: int) -> None:
        """Has its own random state."""
        self.lexicon = lexicon
        self._random = random.Random(f"sentences {seed}")

    def sentences(self) -> Iterator[Phrase]:
        """Yields sentences without end; no source occurs twice."""
        seen = set()
        while True:
            sentence = self._sentence()
            if MIN_WORDS <= len(sentence.source) <= MAX_WORDS and sentence.source not in seen:
                seen.add(sentence.source)
                yield sentence

    def _sentence(self) -> Phrase:
        """[mood] clause [conjunction clause] tense; the target marks the tense on its verbs instead."""
        tense = self._random.randrange(len(TENSE_ENDINGS))
        parts = [self._clause(tense)]
        if self._chance(0.25):
            mood = self._random.choice(self.lexicon.moods)[tense]
            parts.insert(0, _word(mood))
        if self._chance(0.2):
            parts += [self._plain(self.lexicon.conjunctions), self._clause(tense)]
        return _with_tense(_join(*parts), self.lexicon.tenses[tense])

    def _clause(self, tense: int) -> Phrase:
        """Subject verb [object] [preposition noun phrase] [adverb]; the target has the verb at the end."""
        verb = self._pick(self.lexicon.verbs)
        subject = self._subject(verb, tense)
        rest = []
        if self._chance(0.7):
            rest.append(self._noun_phrase())
        if self._chance(0.2):
            rest += [self._plain(self.lexicon.prepositions), self._noun_phrase()]
        if self._chance(0.25):
            rest.append(self._plain(self.lexicon.adverbs))
        return _verb_last(subject, verb, tense, _join(*rest))

    def _subject(self, verb: Word, tense: int) -> Phrase:
        """Noun phrase [relative verb noun phrase]."""
        if self._chance(0.3):
            subject = self._noun_phrase(self._random.choice(self.lexicon.homonyms)[verb.sense])
        else:
            subject = self._noun_phrase()
        if not self._chance(0.15):
            return subject
        relative = _join(subject, self._plain(self.lexicon.relatives))
        clause = _verb_last(
            Phrase(gender=subject.gender, plural=subject.plural),
            self._pick(self.lexicon.verbs),
            tense,
            self._noun_phrase(),
        )
        joined = _join(relative, clause)
        return replace(joined, gender=subject.gender, plural=subject.plural)

    def _noun_phrase(self, noun: Word | None = None) -> Phrase:
        """Determiner adjective* noun, or a name; the given noun if there is one."""
        if noun is None and self._chance(0.25):
            name = self._pick(self.lexicon.names)
            return replace(_word(name), gender=name.gender)
        noun = noun or self._pick(self.lexicon.nouns)
        plural = self._chance(0.4)
        num_adjectives = self._random.choices((0, 1, 2), weights=(55, 35, 10))[0]
        before = [
            self._pick(self.lexicon.determiners),
            *(self._pick(self.lexicon.adjectives) for _ in range(num_adjectives)),
        ]
        ending = GENDER_ENDINGS[plural][noun.gender]
        return Phrase(
            (*(word.source for word in before), noun.source + SOURCE_PLURAL * plural),
            (*(word.target + ending for word in before), noun.target + TARGET_PLURAL * plural),
            tuple((index, index) for index in range(len(before) + 1)),
            noun.gender,
            plural,
        )

    def _plain(self, words: Sequence[Word]) -> Phrase:
        return _word(self._pick(words))

    def _pick(self, words: Sequence[Word]) -> Word:
        """Returns one of the words; as in real language, only few are frequent."""
        return self._random.choices(words, weights=[1 / (rank + 5) for rank in range(len(words))])[0]

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability


def _word(word: Word) -> Phrase:
    return Phrase((word.source,), (word.target,), ((0, 0),))


def _verb_last(subject: Phrase, verb: Word, tense: int, rest: Phrase) -> Phrase:
    """Returns subject verb rest, in the target subject rest verb."""
    form = verb.target + GENDER_ENDINGS[subject.plural][subject.gender] + TENSE_ENDINGS[tense]
    return Phrase(
        (*subject.source, verb.source, *rest.source),
        (*subject.target, *rest.target, form),
        (
            *subject.links,
            (len(subject.source), len(subject.target) + len(rest.target)),
            *_shifted(rest.links, len(subject.source) + 1, len(subject.target)),
        ),
    )


def _with_tense(sentence: Phrase, tense: str) -> Phrase:
    """Returns the sentence with the tense as its last source word, linked to the verbs, which end in it."""
    verbs = [place for place, word in enumerate(sentence.target) if word[-1] in TENSE_ENDINGS]
    links = ((len(sentence.source), place) for place in verbs)
    return replace(sentence, source=(*sentence.source, tense), links=(*sentence.links, *links))


def _join(*phrases: Phrase) -> Phrase:
    joined = Phrase()
    for phrase in phrases:
        links = _shifted(phrase.links, len(joined.source), len(joined.target))
        joined = Phrase(joined.source + phrase.source, joined.target + phrase.target, joined.links + links)
    return joined


def _shifted(links: Iterable[Link], num_source: int, num_target: int) -> tuple[Link, ...]:
    return tuple((source + num_source, target + num_target) for source, target in links)


def draw_splits(sizes: dict[str, int], *, seed: int) -> dict[str, list[Phrase]]:
    """Returns the sentences of each split; a split does not change with the size of those after it."""
    sentences = Grammar(Lexicon(seed), seed).sentences()
    return {split: list(islice(sentences, size)) for split, size in sizes.items()}


def make_splits(sizes: dict[str, int], *, seed: int) -> dict[str, list[Pair]]:
    """Returns the pairs of each split of `draw_splits`."""
    return {split: to_pairs(split, sentences) for split, sentences in draw_splits(sizes, seed=seed).items()}


def to_pairs(split: str, sentences: Iterable[Phrase]) -> list[Pair]:
    """Returns the sentences as text."""
    return [
        Pair(" ".join(sentence.source), " ".join(sentence.target), f"{split}:{number}")
        for number, sentence in enumerate(sentences, 1)
    ]


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, default=Path("data/toy"), help="folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=200, help="sentences (default: %(default)s)")
    parser.add_argument("--valid", type=int, default=50, help="sentences (default: %(default)s)")
    parser.add_argument("--test", type=int, default=50, help="sentences (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of lexicon and sentences")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument(
        "--chunks", action="store_true", help="also write SPLIT.chunks.jsonl and their entries in dataset_info.json"
    )
    parser.add_argument(
        "--latencies",
        default="low=1,medium=2,high=4",
        help="for --chunks: levels and minimum source words of their chunks (default: %(default)s)",
    )
    options = parser.parse_args()

    sizes = {"test": options.test, "valid": options.valid, "train": options.train}
    try:
        print(write_splits(options, sizes))
    except (FileExistsError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


def write_splits(options: argparse.Namespace, sizes: dict[str, int]) -> str:
    """Writes the files and returns a report of them."""
    files = {split: options.output / f"{split}.jsonl" for split in sizes}
    test_sides = [options.output / "test.source", options.output / "test.target"]
    chunk_files = {split: options.output / f"{split}.chunks.jsonl" for split in sizes if options.chunks}
    levels = parse_levels(options.latencies)
    check_absent([*files.values(), *test_sides, *chunk_files.values()], overwrite=options.overwrite)

    drawn = draw_splits(sizes, seed=options.seed)
    chunk_account = write_chunks(options, chunk_files, drawn, levels) if options.chunks else []
    pairs = {split: to_pairs(split, sentences) for split, sentences in drawn.items()}
    for split, file in files.items():
        write_jsonl(file, pairs[split])
    for side, test_file in enumerate(test_sides):
        write_lines(test_file, (pair[side] for pair in pairs["test"]))
    return "\n".join([*(f"{file}: {sizes[split]} sentences" for split, file in files.items()), *chunk_account])


def write_chunks(
    options: argparse.Namespace, files: dict[str, Path], drawn: dict[str, list[Phrase]], levels: dict[str, int]
) -> list[str]:
    """Writes the chunk pairs of each split with their entries in dataset_info.json; returns a report of them."""
    dataset_info = options.output / "dataset_info.json"
    datasets = {f"toy_{split}_chunks": Dataset(file, CHUNK_COLUMNS) for split, file in files.items()}
    entries = dataset_info_with(dataset_info, datasets, overwrite=options.overwrite)
    chunker = Chunker(levels, source_lang=SOURCE_LANG, target_lang=TARGET_LANG)
    account = []
    for split, file in files.items():
        sides = ((" ".join(sentence.source), " ".join(sentence.target), sentence.links) for sentence in drawn[split])
        rows = [row for source, target, links in sides for row in chunker.rows(source, target, links)]
        write_rows(file, rows)
        account.append(f"{file}: {len(rows)} rows")
    write_lines(dataset_info, [entries])
    return [*account, statistics_table(chunker.statistics)]


if __name__ == "__main__":
    main()
