"""The command that finds the attention heads that align, for policy `alignatt`."""

import json

import pytest
import torch
from driving import encoder_of

from simulmask_plugin.cli import main
from simulmask_plugin.streaming.aids import Aids

TEXTS = {"source": "the dog abc\ncat the\n", "target": "abc the dog\nxyz cat\n", "links": "0-1 1-2 2-0\n0-1\n"}


@pytest.fixture
def find(model_of, with_ends, tmp_path):
    """Runs the command on a tiny model of a block, with these texts; returns its exit code."""

    def run(*options, **block):
        for part in (model_of("llama", len(with_ends), 0), with_ends):
            part.save_pretrained(tmp_path)
        encoder_of(with_ends, policy="random", **block).settings.save(tmp_path)
        for name, text in TEXTS.items():
            if not (tmp_path / name).exists():
                (tmp_path / name).write_text(text)
        names = {"source": "source", "target": "target", "alignments": "links"}
        return main(["heads", str(tmp_path), *(f"--{key}={tmp_path / name}" for key, name in names.items()), *options])

    return run


def test_heads_that_look_at_the_links_are_saved(find, tmp_path, capsys, monkeypatch):
    """Every head but one is made to look at the first unit; that one at the unit of the link."""
    from simulmask_plugin.commands import heads

    def hits(translator, layout, links):
        found = torch.zeros(2, 4)
        found[1, 2] = len(links)
        return found, len(links)

    monkeypatch.setattr(heads, "_hits", hits)
    assert find("--top=1") == 0
    assert "of 4 linked target units" in capsys.readouterr().out
    assert Aids.load(tmp_path).heads == ((1, 2),)
    assert json.loads((tmp_path / "simulmask_heads.json").read_text()) == {"heads": [[1, 2]]}


def test_hits_are_counted_by_unit(model_of, with_ends, monkeypatch):
    """Against a count by hand, with attention that is made up."""
    from types import SimpleNamespace

    from simulmask_plugin.batches.collator import lay_out
    from simulmask_plugin.batches.features import Row
    from simulmask_plugin.commands import heads
    from simulmask_plugin.policies import Offline
    from simulmask_plugin.streaming.parity import opening_rows

    encoder = encoder_of(with_ends, policy="random")
    example = encoder.encode(Row("the dog abc", "abc the dog", "English", "German"))
    layout = lay_out(encoder.settings.config, example, Offline().make_schedule(3, 3, None))
    length = len(layout.input_ids)
    attention = torch.zeros(1, 2, length, length)
    rows = [row for _, row in sorted(opening_rows(layout).items())]
    for head, looks in enumerate([(2, 0, 1), (2, 2, 2)]):  # unit that the row of each target unit looks at
        for row, unit in zip(rows, looks, strict=False):
            attention[0, head, row, int((layout.source_unit == unit).nonzero()[0][0])] = 1
    model = model_of("llama", len(with_ends), 0)
    monkeypatch.setattr(type(model), "forward", lambda self, **inputs: SimpleNamespace(attentions=(attention,)))
    hits, num_units = heads._hits(SimpleNamespace(model=model, encoder=encoder), layout, {(2, 0), (0, 1), (1, 2)})
    assert num_units == 3
    assert hits.tolist() == [[3, 1]]


def test_a_real_model_has_heads(find, tmp_path):
    assert find() == 0
    assert len(Aids.load(tmp_path).heads) == 4


@pytest.mark.parametrize(
    ("links", "block", "message"),
    [
        ("0-1\n0-9\n", {}, "links:2: expected links of 2 source and 2 target units"),
        ("\n\n", {}, "no link at all; expected lines such as 0-0 1-2"),
        ("0-1\n", {}, "a line of links in {0}/links for each of the 2 pairs, got fewer."),
        ("0-1\n\n1-2\n", {}, "a line of links in {0}/links for each of the 2 pairs, got more."),
        (None, {"layout": "turns"}, "has layout: turns; expected prefix or slots"),
    ],
)
def test_what_has_no_heads_is_refused(find, tmp_path, capsys, links, block, message):
    if links is not None:
        (tmp_path / "links").write_text(links)
    assert find(**block) == 2
    assert message.format(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["heads", "probe"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a\n", "got 2 in {0}/source and 1 in {0}/target"),
        ("a\n\n", "{0}/source:2: The target is empty ('')"),
        (None, "No such file: {0}/target"),
    ],
)
def test_texts_that_do_not_fit_are_refused_with_their_place(
    model_of, with_ends, tmp_path, capsys, command, target, message
):
    for part in (model_of("llama", len(with_ends), 0), with_ends):
        part.save_pretrained(tmp_path)
    encoder_of(with_ends, policy="random").settings.save(tmp_path)
    texts = {"source": "the dog\nabc\n", "target": target, "alignments": "0-0\n0-0\n"}
    for name, text in texts.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    names = list(texts)[: 3 if command == "heads" else 2]
    assert main([command, str(tmp_path), *(f"--{name}={tmp_path / name}" for name in names)]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
