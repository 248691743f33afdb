"""Scores of streaming while a training evaluates: those of `simulmask eval`, and no trace in the model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from driving import error, llama_factory, write_setup
from in_process import ROWS
from simuleval.evaluator.instance import LogInstance
from simuleval.evaluator.scorers.latency_scorer import LAALScorer

from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.evaluation.batched import stream_batched
from simulmask_plugin.evaluation.config import EvaluationConfig, resolve
from simulmask_plugin.evaluation.runs import INSTANCES, close, undone
from simulmask_plugin.evaluation.scores import metrics, translations
from simulmask_plugin.streaming.simulation import laal
from simulmask_plugin.text.languages import SPACED
from simulmask_plugin.text.prompts import Prompt
from simulmask_plugin.text.units import join_units, split_units
from simulmask_plugin.training import stream_eval
from simulmask_plugin.training.stream_eval import HeldOut, Sentence, StreamEval, StreamScores, check_whole_weights

pytestmark = llama_factory

WAIT = [{"policy": "wait_k", "k": 1}, {"policy": "wait_k", "k": 3}]
FULL = {"finetuning_type": "full", "learning_rate": 3e-3}
EVERY = {"eval_dataset": "rows", "eval_strategy": "steps", "eval_steps": 1}
SENTENCES = list(dict.fromkeys((row["source"], row["target"]) for row in ROWS))


def block(policies=WAIT, *, stream=(), **keys):
    keys = {"policy": "wait_k", "k": 2, "instruction": "T"} | keys
    return {**keys, "stream_eval": {"policies": policies, "max_target_tokens": 20, "lanes": 3, **dict(stream)}}


def evaluations(output):
    """What every evaluation of a training has measured."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "eval_loss" in entry]


def evaluated(model, folder, policies):
    """What `simulmask eval` finds for a model, under the names that a training has."""
    settings = ModelSettings.load(model)
    folder.mkdir()
    units = settings.config.source_units, "character" if settings.config.target_lang == "Chinese" else "word"
    for side, name in enumerate(("source", "target")):
        texts = (join_units(split_units(pair[side], units[side]), units[side]) for pair in SENTENCES)
        (folder / name).write_text("".join(f"{text}\n" for text in texts))
    paths = {"model": str(model), **{name: str(folder / name) for name in ("source", "target", "output")}}
    config = resolve(EvaluationConfig(**paths, policies=tuple(policies), max_target_tokens=20), settings)
    runs = {Path(config.output, decision.name): decision for decision in config.decisions}
    for run in runs:
        run.mkdir(parents=True)
    assert stream_batched(replace(config, lanes=2), runs, undone(runs, len(SENTENCES))) == {}
    found = {}
    for run in runs:
        close(run)
        log = (run / INSTANCES).read_text().splitlines()
        bleu, _ = metrics(config)
        found[f"eval_bleu_{run.name}"] = bleu.corpus_score(*translations(map(json.loads, log))).score
        instances = [LogInstance(line, config.latency_unit) for line in log]
        found[f"eval_laal_{run.name}"] = LAALScorer()(dict(enumerate(instances)))
    for key in ("eval_bleu", "eval_laal"):
        found[key] = mean(value for name, value in found.items() if name.startswith(f"{key}_"))
    return found


@pytest.fixture(scope="module")
def base(bench):
    """A model with dropout, which draws at random in training."""
    return bench.model("base", attention_dropout=0.2)


def train_by_heart(bench, base, name, simulmask, **keys):
    """Train until four sentences are learned by heart; return the output and the state of the random numbers."""
    steps = {"max_steps": 60, "eval_steps": 5, "save_steps": 5, "save_only_model": True}
    output = bench.train(name, base, **{**FULL, **EVERY, **steps, **keys}, simulmask=simulmask)
    # not Python's own, from which the tests' checks of types draw
    return output, (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.fixture(scope="module")
def learned(bench, base):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_bleu", "plot_loss": True}
    return train_by_heart(bench, base, "learned", block(look_ahead_rate=1), **best)


def test_scores_are_those_of_an_evaluation_of_the_checkpoint(learned, tmp_path):
    output, _ = learned
    for entry in (one for one in evaluations(output)[:12] if one["step"] in (5, 20, 60)):
        found = {key: value for key, value in entry.items() if "bleu" in key or "laal" in key}
        checkpoint = output / f"checkpoint-{entry['step']}"
        assert found == pytest.approx(evaluated(checkpoint, tmp_path / checkpoint.name, WAIT), abs=1e-6)
    assert 1 < entry["eval_bleu"] < 99, "a score that says something"


def test_a_training_with_scores_ends_bit_for_bit_as_one_without(bench, base, learned):
    output, state = learned
    simulmask = block(look_ahead_rate=1)
    del simulmask["stream_eval"]
    other, other_state = train_by_heart(bench, base, "without scores", simulmask)
    for name in ("checkpoint-60/model.safetensors", "simulmask.json"):
        assert (output / name).read_bytes() == (other / name).read_bytes()
    assert state == other_state


def test_the_best_model_is_the_one_with_the_best_bleu(learned):
    output, _ = learned
    scores = {entry["step"]: entry["eval_bleu"] for entry in evaluations(output)[:12]}
    best = max(scores, key=scores.__getitem__)
    assert scores[5] < scores[best] > scores[60], "neither the first nor the last"
    state = json.loads((output / "trainer_state.json").read_text())
    assert (state["best_metric"], state["best_global_step"]) == (scores[best], best)
    assert (output / "model.safetensors").read_bytes() == (output / f"checkpoint-{best}/model.safetensors").read_bytes()


def test_scores_are_drawn_with_the_loss(learned):
    assert {"training_eval_bleu.png", "training_eval_laal.png"} <= {path.name for path in learned[0].iterdir()}


@pytest.mark.parametrize("bf16", [False, True])
def test_an_adapter_is_streamed_as_its_merge(bench, learned, tmp_path, bf16):
    """With the checkpointing of activations that LLaMA-Factory switches on, and dropout in the adapter."""
    keys = {"lora_dropout": 0.3, "save_steps": 2, "learning_rate": 1e-3, "bf16": bf16}
    adapter = bench.train(f"adapter {bf16}", learned[0], **{**EVERY, **keys}, simulmask=block())
    merged = bench.export(f"merged {bf16}", learned[0], adapter)
    *_, last = evaluations(adapter)
    found = evaluated(merged, tmp_path / "merged", WAIT)
    assert last["eval_bleu"] > 20
    if not bf16:  # which the merge is not
        assert {key: last[key] for key in found} == pytest.approx(found, abs=1e-6)


CHUNKS = {"layout": "turns", "policy": "wait_k", "k": 1, "instruction": "T"}
LAYOUTS = {
    "slots": (block(layout="slots", slot_length=8), {}),
    "turns, packed": (block(**CHUNKS), {"packing": True, "neat_packing": True, "cutoff_len": 104}),
    "latencies": (
        block(
            [{"latency": "offline"}, {"latency": "offline", "read_threshold": 0.9}], layout="interleaved", policy=None
        ),
        {},
    ),
    "beam": (block([{"policy": "wait_k", "k": 2, "beam_width": 2}], **CHUNKS), {}),
    "recomputed prefix pairs": (
        block([{"policy": "wait_k", "k": 2, "recompute": True}], prefix_pairs=True, positions="contiguous"),
        {},
    ),
    "characters": (block(source_units="character", target_units="character", target_lang="Chinese"), {}),
    "tokens": (block(target_units="token"), {}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_streamed(bench, learned, tmp_path, name):
    simulmask, keys = LAYOUTS[name]
    simulmask = {key: value for key, value in simulmask.items() if value is not None}
    if name == "latencies":
        del simulmask["k"]
    output = bench.train(name, learned[0], **{**FULL, **EVERY, "save_steps": 2, **keys}, simulmask=simulmask)
    found = evaluated(output, tmp_path / "evaluated", simulmask["stream_eval"]["policies"])
    *_, last = evaluations(output)
    assert {key: last[key] for key in found} == pytest.approx(found, abs=1e-6)


def test_each_data_set_has_scores_of_its_own(bench, learned):
    keys = {"eval_on_each_dataset": True, "do_train": False, "do_eval": True}
    output = bench.train("each", learned[0], **{**FULL, **EVERY, **keys}, simulmask=block(stream={"sentences": 2}))
    metrics = json.loads((output / "eval_results.json").read_text())
    assert metrics["eval_rows_bleu"] > 50 and "eval_rows_laal_wait_k-3" in metrics
    assert "eval_bleu" not in metrics


def test_a_part_that_is_split_off_is_streamed(bench, learned):
    keys = {**FULL, **EVERY, "eval_dataset": None, "val_size": 0.5}
    assert evaluations(bench.train("split", learned[0], **keys, simulmask=block()))[0]["eval_bleu"] > 50


# What is counted


def test_lagging_is_that_of_simuleval():
    generator = np.random.default_rng(0)
    for unit in ("word", "char"):
        for _ in range(50):
            num_source, num_written = generator.integers(1, 9, 2).tolist()
            delays = sorted(generator.integers(1, num_source + 1, num_written).tolist())
            reference = " ".join("abcdefgh"[: int(generator.integers(1, 9))]) + "\n"
            record = {"index": 0, "delays": delays, "source_length": num_source, "reference": reference}
            instance = LogInstance(json.dumps({**record, "prediction": "a"}), unit)
            assert laal(record, unit) == LAALScorer()({0: instance})


def test_where_nothing_is_written_there_is_no_latency(monkeypatch):
    """And no mean, which would be one of other policies."""
    text = "a b c d"
    records = [{"prediction": text, "delays": [1, 2, 2, 2], "reference": text, "source_length": 2}] * 4
    records[::2] = [{**records[0], "prediction": "", "delays": []}] * 2
    monkeypatch.setattr(stream_eval, "Pool", lambda model, lanes: SimpleNamespace(run=lambda jobs: made(records)))

    def made(records):
        return ((number, (None, record)) for number, record in reversed(list(enumerate(records))))

    keys = StreamEval(policies=tuple(WAIT))
    data = {"eval": HeldOut([Sentence("a b", "a", "X", "Y")] * 2, SPACED)}
    scores = StreamScores(keys, None, data).measure(None, "eval")
    assert {key for key in scores if "laal" in key} == {"eval_laal_wait_k-3"}
    assert scores["eval_bleu_wait_k-3"] > scores["eval_bleu_wait_k-1"] == 0
    assert StreamScores(keys, None, data).measure(None, "predict") == {}


def test_languages_that_are_counted_differently_need_data_sets_of_their_own():
    settings = ModelSettings(SimulMaskConfig.from_dict({"policy": "wait_k", "k": 1}), Prompt("", " "))
    pairs = [Sentence("a", "b", "X", lang) for lang in ("German", "Czech", "Chinese")]
    assert HeldOut.of(pairs[:2], settings).latency_unit == "word"
    assert HeldOut.of(pairs[2:], settings).latency_unit == "char"
    with pytest.raises(ValueError, match=r"stream_eval: the held-out data has .* eval_on_each_dataset: true"):
        HeldOut.of(pairs, settings)
    settings = settings.after_training_on(TrainedOn(language_pairs=(("X", "German"),)))
    with pytest.raises(ValueError, match="stream_eval: The model was never trained to translate from X to Czech"):
        HeldOut.of(pairs[:2], settings)


# What is refused


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training YAML that evaluates, and streams."""
    keys = {**EVERY, "eval_dataset": "rows", "simulmask": block(), "template": "empty", "bf16": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        yield write_setup(tmp_path_factory.mktemp("stream_eval"), **keys)


REFUSED = {
    "simulmask.stream_eval=5": "simulmask.stream_eval must be a mapping of keys to values, got 5",
    "simulmask.stream_eval.policies=null": "simulmask.stream_eval.policies is missing or empty",
    "simulmask.stream_eval.policies=[]": "simulmask.stream_eval.policies must be a list such as",
    "simulmask.stream_eval.policies=[{k: 3}]": "simulmask.stream_eval.policies: each entry needs a policy or a latency",
    "simulmask.stream_eval.policies=[{policy: wait_k, n: 3}]": "simulmask.stream_eval.policies, entry 1: n is set, but",
    "simulmask.stream_eval.policies=[{policy: offline}, {policy: offline}]": "policies: two entries are the same",
    "simulmask.stream_eval.sentence=5": "simulmask.stream_eval: unknown key 'sentence'; known keys: policies, sen",
    "simulmask.stream_eval.sentences=0": "simulmask.stream_eval.sentences must be an integer of at least 1, got 0",
    "simulmask.stream_eval.lanes=many": "simulmask.stream_eval.lanes must be an integer",
    "eval_dataset=null": "simulmask.stream_eval streams held-out data, of which there is none; set eval_dataset or",
    'eval_strategy="no"': "with eval_strategy: no it never does; set eval_strategy: steps",
    "deepspeed={zero_optimization: {stage: 3}}": "stream_eval does not work with DeepSpeed ZeRO-3, .* use .* ZeRO-2",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_streamed_is_refused_before_anything_is_loaded(training, capsys, override):
    assert re.search(REFUSED[override], error(capsys, "validate", training, override))


def test_attention_without_a_mask_is_refused(training, capsys):
    overrides = ["simulmask.layout=turns", "simulmask.instruction=T", "flash_attn=fa2"]
    assert "stream_eval does not work with flash_attn: fa2" in error(capsys, "validate", training, *overrides)


def test_what_is_streamed_is_said(training, capsys):
    assert main(["validate", str(training), "deepspeed={zero_optimization: {stage: 2}}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "BLEU and LAAL of wait_k-1, wait_k-3, on the first 200 held-out sentence pairs" in said


@pytest.mark.parametrize("fsdp, launched", [(["full_shard"], "false"), ([], "true")])
def test_parts_of_weights_are_refused(monkeypatch, fsdp, launched):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", launched)
    with pytest.raises(ValueError, match="stream_eval does not work with FSDP"):
        check_whole_weights(None, fsdp)
