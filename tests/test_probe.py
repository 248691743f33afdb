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
from simulmask_plugin.commands.probe import _same_rows, shifted
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.policies import RandomWalk, ReadSchedule
from simulmask_plugin.streaming.probe import (
    FILE_NAME,
    Probe,
    area_under_curve,
    directions,
    divergence,
    fit,
    shape_of,
)

SENTENCES = [("the dog abc house cd", "abc the dog xyz"), ("cat", "xyz cd"), ("a house cd the dog", "the abc cat a")]
BLOCKS = {"prefix": {}, "tokens": {"target_units": "token"}, "slots": {"layout": "slots", "slot_length": 5}}


def test_a_fitted_probe_finds_what_it_was_made_from():
    random = torch.Generator().manual_seed(0)
    head = torch.randn(50, 6, generator=random)
    hidden = torch.randn(4000, 6, generator=random)
    logits, basis = hidden @ head.T, directions(head)
    fewer = logits + torch.randn(4000, 1, generator=random) * head[:, 0]
    before = divergence(logits, fewer)
    stays = ((hidden[:, 2] > 0.3) & (before < 0.5)).float()
    probe = fit(torch.cat([logits @ basis, shape_of(logits, before)], dim=1), stays, basis)
    scores = torch.tensor([probe(*rows) for rows in zip(logits[:500], fewer[:500], strict=True)])
    assert area_under_curve(scores, stays[:500]) > 0.97
    assert probe(logits[0], None) != probe(logits[0], fewer[0])


def test_shape_of_a_prediction():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    expected = [np.log(0.5), np.log(2), 1.5 * np.log(2), 0.25, np.log(0.25)]
    torch.testing.assert_close(shape_of(logits, torch.tensor(0.25)), torch.tensor(expected, dtype=torch.float32))
    bounds = shape_of(logits.expand(2, 3), torch.tensor([0.0, 99.0]))[:, 3:]
    torch.testing.assert_close(bounds, torch.tensor([[0.0, np.log(1e-4)], [10.0, np.log(99)]], dtype=torch.float32))


def test_divergence():
    now, before = (torch.tensor(p).log() for p in ([0.5, 0.5], [0.25, 0.75]))
    assert float(divergence(now, before)) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_area_under_the_curve():
    stays = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert area_under_curve(torch.tensor([1.0, 2.0, 3.0, 4.0]), stays) == 0.75
    assert area_under_curve(torch.tensor([1.0, 1.0, 1.0, 1.0]), stays) == 0.5


@pytest.mark.parametrize("name", BLOCKS)
def test_rows_of_all_layouts_predict_the_same_unit(byte_level, name):
    encoder, random = encoder_of(byte_level, policy="random", **BLOCKS[name]), np.random.default_rng(0)
    for source, target in SENTENCES:
        example = encoder.encode(Row(source, target, "English", "German"))
        num_source = len(example.source_lengths)
        schedule = RandomWalk(most=3).make_schedule(num_source, len(example.target_lengths), random)
        layouts = [lay_out(encoder.settings.config, example, shifted(schedule, shift)) for shift in (0, 1, -1)]
        found = list(_same_rows(*layouts))
        for now, more, less, num_read in found:
            rows = list(zip(layouts, (now, more, less), strict=True))
            assert [int(layout.num_read[row]) for layout, row in rows] == [num_read, num_read + 1, num_read - 1]
            assert len({int(layout.labels[row + 1]) for layout, row in rows}) == 1, "what they predict"
        assert len(found) == sum(g < num_source for g in schedule.num_read)


def test_a_schedule_is_shifted_within_the_source():
    assert shifted(ReadSchedule((1, 2, 4), 4), 1).num_read == (2, 3, 4)
    assert shifted(ReadSchedule((1, 2, 4), 4), -2).num_read == (0, 0, 2)


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
    assert "hardly change with one source unit more" in printed
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
