"""The probe that policy `stability` asks: how it is fitted, what it is fitted to, and the command."""

import json

import numpy as np
import pytest
import torch
from driving import encoder_of
from test_calibration import entry

from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import Row
from simulmask_plugin.cli import main
from simulmask_plugin.commands.probe import _same_rows
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.policies import Offline, RandomWalk, roll_out
from simulmask_plugin.streaming.probe import FILE_NAME, Probe, area_under_curve, directions, fit, shape_of

SENTENCES = [("the dog abc house cd", "abc the dog xyz"), ("cat", "xyz cd"), ("a house cd the dog", "the abc cat a")]
BLOCKS = {"prefix": {}, "tokens": {"target_units": "token"}, "slots": {"layout": "slots", "slot_length": 5}}


def test_a_fitted_probe_finds_what_it_was_made_from():
    random = torch.Generator().manual_seed(0)
    head = torch.randn(50, 6, generator=random)
    hidden = torch.randn(4000, 6, generator=random)
    logits, basis = hidden @ head.T, directions(head)
    stays = (hidden[:, 2] > 0.3).float()
    probe = fit(logits @ basis, shape_of(logits), stays, basis)
    scores = torch.tensor([probe(row) for row in logits[:500]])
    assert area_under_curve(scores, stays[:500]) > 0.99
    assert ((scores > 0.5) == (stays[:500] > 0)).float().mean() > 0.95


def test_shape_of_a_prediction():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    expected = torch.tensor([np.log(0.5), np.log(2), 1.5 * np.log(2)], dtype=torch.float32)
    torch.testing.assert_close(shape_of(logits), expected)


def test_area_under_the_curve():
    stays = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert area_under_curve(torch.tensor([1.0, 2.0, 3.0, 4.0]), stays) == 0.75
    assert area_under_curve(torch.tensor([1.0, 1.0, 1.0, 1.0]), stays) == 0.5


@pytest.mark.parametrize("name", BLOCKS)
def test_rows_of_both_layouts_predict_the_same_unit(byte_level, name):
    encoder, random = encoder_of(byte_level, policy="random", **BLOCKS[name]), np.random.default_rng(0)
    for source, target in SENTENCES:
        example = encoder.encode(Row(source, target, "English", "German"))
        sizes = len(example.source_lengths), len(example.target_lengths)
        schedule = RandomWalk(most=3).make_schedule(*sizes, random)
        part, whole = (lay_out(encoder.settings.config, example, g) for g in (schedule, roll_out(Offline(), *sizes)))
        rows = list(_same_rows(part, whole))
        firsts = {example.source_end + example.num_header + n for n in [0, *np.cumsum(example.target_lengths)]}
        for here, there in rows:
            assert part.num_read[here] < sizes[0] <= whole.num_read[there]
            assert part.labels[here + 1] == whole.labels[there + 1], "what they predict"
            assert part.token[here] + 1 in firsts or part.token[here] == example.source_end + example.num_header - 1
        assert len(rows) == sum(g < sizes[0] for g in schedule.num_read)


def test_the_command_saves_it_beside_the_model_and_an_evaluation_asks_it(model_of, with_ends, tmp_path, capsys):
    encoder, model = encoder_of(with_ends, policy="random"), model_of("llama", len(with_ends), 0)
    for part in (model, with_ends):
        part.save_pretrained(tmp_path / "model")
    other = entry()
    encoder.settings.calibrated([other, entry(policy="stability")]).save(tmp_path / "model")
    for side, texts in zip(("source", "target"), zip(*SENTENCES, strict=True), strict=True):
        (tmp_path / side).write_text("\n".join(texts * 20) + "\n")
    texts = [f"--{side}={tmp_path / side}" for side in ("source", "target")]
    assert main(["probe", str(tmp_path / "model"), *texts, "--batch-size=8"]) == 0
    printed = capsys.readouterr().out
    assert "stay with all of it" in printed
    assert "The thresholds that were calibrated with the probe before are removed" in printed
    assert ModelSettings.load(tmp_path / "model").calibration == (other,)
    assert Probe.load(tmp_path / "model").tokens.shape == (len(with_ends),)
    keys = {side: str(tmp_path / side) for side in ("model", "source", "target", "output")}
    keys |= {"policies": [{"policy": "stability"}], "engine": "batched", "audit": 0, "max_target_tokens": 8, "limit": 3}
    (tmp_path / "eval.yaml").write_text(json.dumps(keys))
    assert main(["eval", str(tmp_path / "eval.yaml")]) in (0, 1)  # a random model may write nothing
    assert (tmp_path / "output" / "stability" / "instances.log").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("block", "batch_size", "message"),
    [({"layout": "turns"}, 8, "has layout: turns; expected prefix or slots"), ({}, 32, "at least 5 batches")],
)
def test_what_cannot_be_fitted_is_refused(model_of, with_ends, tmp_path, capsys, block, batch_size, message):
    for part in (model_of("llama", len(with_ends), 0), with_ends):
        part.save_pretrained(tmp_path)
    encoder_of(with_ends, policy="random", **block).settings.save(tmp_path)
    (tmp_path / "text").write_text("the dog\n" * 9)
    texts = [f"--{side}={tmp_path / 'text'}" for side in ("source", "target")]
    assert main(["probe", str(tmp_path), *texts, f"--batch-size={batch_size}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / FILE_NAME).exists()
