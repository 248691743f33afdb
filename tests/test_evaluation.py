"""Evaluations that are refused before they start, and runs that fail."""

import json
import os

import pytest
from tokenizers import normalizers

from simulmask_plugin.attention.families import tiny_config
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation import engines
from simulmask_plugin.evaluation import run as evaluation_module
from simulmask_plugin.evaluation.config import check_evaluation, load_evaluation
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.policies import WaitK
from simulmask_plugin.text import languages
from simulmask_plugin.text.prompts import Prompt


@pytest.fixture
def evaluation(tmp_path):
    """Writes an evaluation YAML of a model trained at wait-3, with changes, and checks it."""
    tiny_config("llama", 100).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    for side, text in {"source": "a b\nc d\n", "target": "A B\nC D\n"}.items():
        (tmp_path / f"test.{side}").write_text(text)

    def train(**block):
        block = {"policy": "wait_k", "k": 3, "positions": "group"} | block
        ModelSettings(SimulMaskConfig.from_dict(block), Prompt("a:", "\nb:")).save(tmp_path)

    def check(**changes):
        keys = {"model": tmp_path, "source": tmp_path / "test.source", "target": tmp_path / "test.target"}
        keys |= {"output": tmp_path / "out", "policies": [{"policy": "wait_k", "k": 1}]} | changes
        values = {key: str(value) if isinstance(value, os.PathLike) else value for key, value in keys.items()}
        (tmp_path / "eval.yaml").write_text(json.dumps(values))
        return check_evaluation(load_evaluation(tmp_path / "eval.yaml"))

    train()
    check.train = train
    return check


def instance(index, prediction):
    """A line of SimulEval's log."""
    return {"index": index, "prediction": prediction, "reference": "A B\n", "source": "a b", "delays": [1]}


def test_good_evaluation_is_accepted(evaluation):
    assert evaluation(simulmask={"positions": "group"}).config.policies == (WaitK(k=3),)


EVALUATIONS = {
    "policies that are no list": ({"policies": {"policy": "offline"}}, r"policies must be a list such as"),
    "policy without a name": ({"policies": [{"k": 3}]}, r"policies: each entry needs a policy"),
    "policy of training": (
        {"policies": [{"policy": "schedule"}]},
        r"entry 1: .*\{policy: wait_k, k: 3\} in an evaluation",
    ),
    "another instruction": (
        {"simulmask": {"instruction": "Say:"}},
        r"simulmask\.instruction is 'Say:', but the model was trained with 'Translate",
    ),
    "unknown key of the block": ({"simulmask": {"position": "group"}}, r"simulmask: unknown key 'position'; known"),
    "model that is no text": ({"model": 3}, r"eval\.yaml: model must be a text, got 3"),
    "unknown device": ({"device": "gpu"}, r"^device: unknown device 'gpu'; expected cpu, cuda"),
    "empty policy": ({"policies": [{"policy": None}]}, r"policies: each entry needs a policy"),
    "document of no units": (
        {"document_units": 0},
        r"document_units must be an integer of at least 1 .*, got 0",
    ),
    "context without a document": ({"context_sentences": 2}, r"context_sentences is 2, but without document_units"),
    "context below zero": ({"context_sentences": -1}, r"context_sentences must be an integer of at least 0 .*, got -1"),
}


@pytest.mark.parametrize(("changes", "message"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_bad_evaluation_is_refused(evaluation, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluation(**changes)


def test_empty_keys_are_defaults(evaluation, tmp_path):
    empty = ("simulmask", "extra_metrics", "jobs", "threads", "device", "dtype", "limit", "context_sentences")
    evaluation(**dict.fromkeys(empty))
    given = load_evaluation(tmp_path / "eval.yaml")
    assert [getattr(given, key) for key in empty] == [{}, {}, 1, None, "cpu", "float32", None, 0]
    with pytest.raises(ValueError, match="target is missing or empty; it must be a text"):
        evaluation(target=None)


def test_document_of_chunks_is_accepted(evaluation):
    evaluation.train(layout="turns", positions="contiguous")
    assert evaluation(document_units=20, context_sentences=1).config.layout.name == "turns"


@pytest.mark.parametrize("tokenizer", ["ja-mecab", "ko-mecab"])
def test_tokenizer_without_its_packages_is_refused(evaluation, monkeypatch, tokenizer):
    monkeypatch.setattr(languages, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=rf"{tokenizer} needs more packages; pip install 'sacrebleu\[{tokenizer[:2]}"):
        evaluation(bleu_tokenize=tokenizer)


# Units of the target, of the texts and of SimulEval

HAN, SPACED_HAN, CUT_HAN = "我们是中国人。\n好\n", "我 们 是 中 国 人 。\n好\n", "我们 是 中国 人 。\n好\n"
CHARACTERS = {"target_units": "character"}
AGREEING = {
    "characters": (CHARACTERS, {}, HAN),
    "Chinese": ({"target_lang": "Chinese"}, {}, HAN),
    "Chinese in the YAML": ({}, {"target_lang": "zh"}, HAN),
    "Chinese tokens": ({"target_units": "token"}, {"target_lang": "zh"}, HAN),
    "words of German tokens": ({"target_units": "token"}, {}, "A B\nC D\n"),
    "Chinese cut into words": ({}, {"target_lang": "zh", "latency_unit": "word"}, CUT_HAN),
    "Thai, in characters by wish": ({}, {"target_lang": "Thai", "latency_unit": "char"}, "สวัสดีชาวโลก\nดี\n"),
    "a few foreign words": ({}, {"target_lang": "zh"}, "我们在 Berlin 的中国人很多很多很多很多\n好\n"),
}


@pytest.mark.parametrize(("block", "changes", "text"), AGREEING.values(), ids=AGREEING)
def test_units_that_agree_are_accepted(evaluation, tmp_path, block, changes, text):
    evaluation.train(**block)
    (tmp_path / "test.target").write_text(text)
    evaluation(**changes)


DISAGREEING = {
    "words of characters": (
        CHARACTERS,
        {"latency_unit": "word"},
        HAN,
        r"latency_unit: word does not go with a model of target_units: character, .* Set latency_unit: char\.$",
    ),
    "words of Chinese tokens": (
        {"target_units": "token", "target_lang": "zh"},
        {"latency_unit": "word"},
        HAN,
        r"target_units: token, .* Set latency_unit: char\.$",
    ),
    "characters of a spaced language": (
        {},
        {"latency_unit": "char"},
        "A man sleeps\nC D\n",
        r"target: .*test\.target has white space between words or characters\. With latency_unit: char SimulEval",
    ),
    "Chinese with spaces": (CHARACTERS, {}, SPACED_HAN, r"Write the reference without it \(prepare_mt_test_data"),
    "Chinese cut into words": ({"target_lang": "zh"}, {}, CUT_HAN, r"or set latency_unit: word if the model writes"),
    "words of Chinese": (
        {"target_lang": "Chinese"},
        {"latency_unit": "word"},
        HAN,
        r"latency_unit: word needs white space between the words of .*test\.target.* AL would be -1\. Remove the key",
    ),
}


@pytest.mark.parametrize(("block", "changes", "text", "message"), DISAGREEING.values(), ids=DISAGREEING)
def test_units_that_cannot_be_right_are_refused(evaluation, tmp_path, block, changes, text, message):
    evaluation.train(**block)
    (tmp_path / "test.target").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluation(**changes)


def test_source_of_characters_needs_white_space(evaluation, tmp_path):
    evaluation.train(source_units="character")
    (tmp_path / "test.source").write_text(SPACED_HAN)
    evaluation()
    (tmp_path / "test.source").write_text(HAN)
    with pytest.raises(
        ValueError, match=r"source: .*test\.source has no white space between its characters.*--source-unit"
    ):
        evaluation()


def test_files_of_different_length_are_refused(evaluation, tmp_path):
    (tmp_path / "test.target").write_text("A B\n")
    with pytest.raises(ValueError, match=r"test\.source has 2 lines, but .*test\.target has 1; .*line-aligned"):
        evaluation()


def test_lines_are_counted_as_simuleval_reads_them(evaluation, tmp_path):
    (tmp_path / "test.source").write_text("a\u2028b\nc d\n")
    assert evaluation().config.policies == (WaitK(k=3),)


def test_model_without_its_settings_is_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").unlink()
    with pytest.raises(ValueError, match=r"has no simulmask\.json: expected a checkpoint, adapter or merged model"):
        evaluation()


def test_damaged_settings_are_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged"):
        evaluation()


@pytest.mark.parametrize(
    ("predictions", "message"),
    [(["", ""], "the model wrote nothing for any sentence"), (["", "A"], "^why$"), ([""], "^why$"), ([], "^why$")],
)
def test_run_without_a_single_word_is_explained(evaluation, tmp_path, monkeypatch, predictions, message):
    """SimulEval then fails for want of a latency; other failures are told as they are."""

    def fail(name, command, log, environment, prepare):
        lines = [json.dumps(instance(i, prediction)) + "\n" for i, prediction in enumerate(predictions)]
        (log.parent / "instances.log").write_text("".join(lines))
        raise ProgramFailed("why")

    evaluation()
    monkeypatch.setattr(engines, "run_program", fail)
    with pytest.raises(ProgramFailed, match=message):
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")


def test_attention_that_cannot_take_the_mask_is_refused_before_anything_runs(evaluation, tmp_path):
    evaluation(attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match=r"Attention 'flash_attention_2' cannot take the mask.*sdpa"):
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")
    assert not (tmp_path / "out").exists()


def test_device_that_is_not_there_is_refused_before_anything_runs(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    evaluation(device="cuda")
    with pytest.raises(ValueError, match="device: cuda is not there: torch sees no GPUs"):
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")
    assert not (tmp_path / "out").exists()


def test_policy_that_failed_leaves_the_results_of_the_others(finished, evaluation, tmp_path, monkeypatch, capsys):
    evaluation(policies=[{"policy": "wait_k", "k": 1}, {"policy": "offline"}])

    def fail(*arguments, prepare):
        raise ProgramFailed("out of memory\nat 0x1")

    monkeypatch.setattr(engines, "run_program", fail)
    assert evaluation_module.run_evaluation(tmp_path / "eval.yaml") == 1
    out, err = capsys.readouterr()
    assert "[2/2] offline: failed: out of memory\n" in out and "Failed: offline: out of memory\nat 0x1" in err
    assert "wait_k-1" in (tmp_path / "out" / "scores.tsv").read_text()
    assert "- offline: out of memory" in (tmp_path / "out" / "report.md").read_text()


def test_run_that_never_began_does_not_block_its_correction(evaluation, tmp_path, monkeypatch):
    def fail(name, command, log, environment, prepare):
        raise ProgramFailed("why")

    monkeypatch.setattr(engines, "run_program", fail)
    for changes in ({"max_target_tokens": 7}, {"max_target_tokens": 70}):
        evaluation(**changes)
        with pytest.raises(ProgramFailed, match="why"):
            evaluation_module.run_evaluation(tmp_path / "eval.yaml")


# Results and what they were made from

SESSION = {"seconds": 1.0, "calls": 5, "written_tokens": 6, "flops": 2e9, "truncated": False}


@pytest.fixture
def finished(evaluation, tmp_path, monkeypatch):
    """Runs the evaluation with a SimulEval that leaves what the real one would; returns how it was started."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    evaluation()

    def run(num_sentences=2):
        started = []

        def stream(name, command, log, environment, prepare):
            prepare()
            started.append(environment)
            rows = [instance(i, "A B") for i in range(num_sentences)]
            for name, values in {"instances.log": rows, "sessions.jsonl": [SESSION] * num_sentences}.items():
                (log.parent / name).write_text("".join(json.dumps(value) + "\n" for value in values))
            (log.parent / "scores.tsv").write_text("AL\tLAAL\tAP\tDAL\n1\t2\t3\t4\n")

        monkeypatch.setattr(engines, "run_program", stream)
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")
        return started

    assert [environment["PYTHONUTF8"] for environment in run()] == ["1"], "texts are UTF-8 whatever the locale"
    return run


REPLACED = {
    "source": ("test.source", "c d\na b\n"),
    "reference": ("test.target", "C D\nA B\n"),
    "weights": ("pytorch_model.bin", "WEIGHTS"),
    "tokenizer": ("tokenizer.json", None),
    "settings of the training": ("simulmask.json", None),
}


@pytest.mark.parametrize(("name", "text"), REPLACED.values(), ids=REPLACED)
def test_results_of_other_files_at_the_same_path_are_refused(finished, evaluation, tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    elif name == "simulmask.json":
        evaluation.train(k=1)
    else:
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
    changed = {"test.source": "source", "test.target": "target", "simulmask.json": "trained"}.get(name, name)
    with pytest.raises(ValueError, match=rf"made with other settings or files \({changed} changed\)"):
        finished()


def test_same_files_elsewhere_are_the_same(finished, evaluation, tmp_path):
    for side in ("source", "target"):
        (tmp_path / f"test.{side}").rename(tmp_path / f"moved.{side}")
    with pytest.raises(ValueError, match=r"test\.source: no such file"):
        finished()
    evaluation(source=tmp_path / "moved.source", target=tmp_path / "moved.target")
    assert finished() == []


def test_results_that_are_not_whole_are_made_again(finished, tmp_path, capsys):
    folder = tmp_path / "out" / "wait_k-1"
    (folder / "scores.tsv").write_text("")
    assert len(finished()) == 1
    assert (
        "[1/1] wait_k-1: scores.tsv: missing or changed since the run ended; scoring again\n" in capsys.readouterr().out
    )
    assert finished() == []


def test_results_of_fewer_sentences_are_none(finished, tmp_path):
    (tmp_path / "out" / "wait_k-1" / "finished.json").unlink()
    with pytest.raises(ProgramFailed, match=r"instances\.log holds 1 whole lines of 2 sentences; is the disk full\?"):
        finished(num_sentences=1)


def test_source_that_cannot_be_encoded_is_refused_before_anything_is_streamed(evaluation, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x d", "z")
    tokenizer.save_pretrained(tmp_path)
    evaluation()
    message = r"source: .*test\.source:2: The tokenizer merges 'd' with the text before it"
    with pytest.raises(ValueError, match=message):
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")
    assert not (tmp_path / "out").exists()
