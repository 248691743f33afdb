"""The `simulmask:` block and simulmask.json."""

import ast
import inspect
import json
from dataclasses import fields, is_dataclass

import layouts_driver
import pytest
from driving import CatchUp

from simulmask_plugin.config.block import SimulMaskConfig, defaults, parse_block
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.prefix import Prefix
from simulmask_plugin.policies import POLICIES, WaitK
from simulmask_plugin.text.prompts import Prompt

BLOCKS = [
    *layouts_driver.BLOCKS.values(),
    {"policy": "wait_k", "k": [1, 3, 5], "look_ahead_rate": 0.5},
    {"policy": "wait_k", "k": "1-9", "positions": "contiguous", "rows": "own_unit"},
    {"policy": "offline", "source_units": "character", "target_units": "token"},
    {"policy": "schedule", "group_offset": 64, "rows": "next_unit", "prompt": "template"},
    {"policy": "wait_k", "k": 2, "layout": "slots", "positions": "slots", "slot_length": 8, "next_header": "\nX:"},
]
WAIT_3, OFFLINE, SLOTS = {"policy": "wait_k", "k": 3}, {"policy": "offline"}, {"policy": "offline", "layout": "slots"}
INTERLEAVED, TURNS = {"layout": "interleaved"}, {**WAIT_3, "layout": "turns"}
PAIRS = {**WAIT_3, "prefix_pairs": True, "positions": "contiguous"}


def settings_of(**block):
    return ModelSettings(SimulMaskConfig.from_dict(block), Prompt("Tr {source_lang}: ", "\nAs:"))


def test_defaults_are_the_recommended_settings():
    config = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3})
    assert config.layout == Prefix(positions="group", rows="look_ahead", look_ahead_rate=0.5)
    assert (config.source_units, config.target_units) == ("word", "word")


def test_simulmask_json_round_trip(tmp_path):
    for block in BLOCKS:
        settings = settings_of(**block)
        settings.save(tmp_path)
        assert ModelSettings.load(tmp_path) == settings


def test_simulmask_json_is_readable_and_says_who_wrote_it(tmp_path):
    ModelSettings(SimulMaskConfig.from_dict({"policy": "offline"}), Prompt("Übersetze: ", "\n:")).save(tmp_path)
    text = (tmp_path / FILE_NAME).read_text(encoding="utf-8")
    assert "Übersetze" in text
    assert text.endswith("}\n")
    keys = {"simulmask_plugin", "config", "prompt", "trained_on", "template", "end_of_sentence", "sha256"}
    assert json.loads(text).keys() == keys


UNKNOWN = "simulmask.{}: unknown value {}; expected one of {}"
REFUSED = [
    ({}, "simulmask.policy is missing; expected one of wait_k, read_n, offline, schedule"),
    ("wait_k", "The simulmask: block must be a mapping of keys to values, got 'wait_k'"),
    ({"policy": "wait_k"}, r"simulmask.k is missing or empty; .*\(source units\) \(layout: prefix, policy: wait_k\)"),
    ({"policy": "wait_k", "k": 10001}, r"simulmask\.k must be an integer of at least 1 and at most 10000"),
    ({**OFFLINE, "target_units": "words"}, UNKNOWN.format("target_units", "'words'", "word")),
    ({**OFFLINE, "next_header": "{lang}"}, r"Unknown placeholder \{lang\}"),
    *(({**OFFLINE, key: None}, f"simulmask.{key} must be a text, got None") for key in ("source_lang", "target_lang")),
    # Positions that another layout has
    ({**SLOTS, "positions": "group"}, UNKNOWN.format("positions", "'group'", r"slots \(layout: slots")),
    ({**INTERLEAVED, "positions": "group"}, UNKNOWN.format("positions", "'group'", r"contiguous \(layout: inter")),
    ({**TURNS, "positions": "modified_alibi"}, UNKNOWN.format("positions", "'modified_alibi'", r"contiguous \(layout")),
    # What does not go together
    ({**INTERLEAVED, **WAIT_3}, "layout: interleaved does not go with policy: wait_k; layout: interleaved and pol"),
    ({"policy": "model_driven"}, "layout: prefix does not go with policy: model_driven"),
    ({**INTERLEAVED, "target_units": "token"}, "units: token is neither"),
    ({**WAIT_3, "instruction": "{latency}:"}, r"placeholder \{latency\} needs layout: interleaved, got layout: pref"),
    ({**PAIRS, "k": [1, 3]}, r"simulmask\.k: the list 1, 3 does not go with prefix_pairs.*; set one k"),
    ({**OFFLINE, "prefix_pairs": True}, "positions: group does not go with prefix_pairs: true, .*; set positions: co"),
    ({**PAIRS, "positions": "modified_alibi"}, "positions: modified_alibi does not go with prefix_pairs: true"),
    # Numbers and choices of interleaved
    ({**INTERLEAVED, "loss_on": "source"}, UNKNOWN.format("loss_on", "'source'", "all")),
    ({**INTERLEAVED, "special_token_weight": 0}, r"simulmask\.special_token_weight must be a number above 0, got 0"),
    ({**INTERLEAVED, "read_threshold": 1}, r"read_threshold must lie between 0 and 1 \(a probability\), got 1"),
]


@pytest.mark.parametrize("block, message", REFUSED)
def test_bad_blocks_are_refused(block, message):
    """Beside those of bad_training_input.py, which arrive through the commands."""
    with pytest.raises(ValueError, match=message):
        SimulMaskConfig.from_dict(block)


@pytest.mark.parametrize("value, k", [(3, 3), ("3", 3), ("1-4", (1, 2, 3, 4)), ("2-2", 2), ([1, 5], (1, 5)), ([4], 4)])
def test_golden_k(value, k):
    assert SimulMaskConfig.from_dict({"policy": "wait_k", "k": value}).keys()["k"] == k


def test_several_k_make_several_policies():
    policies = SimulMaskConfig.from_dict({"policy": "wait_k", "k": "1-3"}).policies
    assert [policy.wanted(1) for policy in policies] == [1, 2, 3]


def test_lists_of_several_parameters_are_combined(monkeypatch):
    monkeypatch.setitem(POLICIES, "catch_up", CatchUp)
    config = SimulMaskConfig.from_dict({"policy": "catch_up", "k": [5, 7], "n": "2-3"})
    assert [(policy.k, policy.n) for policy in config.policies] == [(5, 2), (5, 3), (7, 2), (7, 3)]
    assert SimulMaskConfig.from_dict(config.keys()) == config


@pytest.mark.parametrize(
    "block, laid_out_rows",
    [
        ({}, "look_ahead"),
        ({"look_ahead_rate": 0.2}, "look_ahead"),
        ({"look_ahead_rate": 0}, "next_unit"),
        ({"target_units": "token"}, "next_unit"),
        ({"rows": "own_unit"}, "own_unit"),
        ({"rows": "own_unit", "target_units": "token"}, "own_unit"),
    ],
)
def test_look_ahead_rows_are_laid_out_only_where_a_boundary_is_to_be_decided(block, laid_out_rows):
    config = SimulMaskConfig.from_dict({"policy": "offline"} | block)
    assert config.convention == CONVENTIONS[laid_out_rows]


WITHOUT_MEANING = [
    ({"look_ahead_rate": 0.25, "rows": "own_unit"}, "look_ahead_rate has no meaning with rows: own_unit"),
    ({"look_ahead_rate": 0.25, "target_units": "token"}, "look_ahead_rate has no meaning with target_units: token"),
    ({"look_ahead_rate": 0.25, "layout": "turns"}, "look_ahead_rate has no meaning in layout: turns"),
    ({"rows": "own_unit", "layout": "turns"}, "rows has no meaning in layout: turns"),
    ({"group_offset": 8, "positions": "contiguous"}, "group_offset has no meaning with positions: contiguous"),
    ({"group_offset": 8, "layout": "slots"}, "group_offset has no meaning in layout: slots"),
    ({"header": "\nX:", "prompt": "template"}, "header has no meaning with prompt: template"),
    ({"next_header": "\nX:"}, "next_header has no meaning in layout: prefix"),
    ({**TURNS, "next_header": "\nX:", "prompt": "template"}, "next_header has no meaning with prompt: template"),
    ({"loss_on": "target"}, "loss_on has no meaning in layout: prefix"),
    ({"special_token_weight": 2}, "special_token_weight has no meaning in layout: prefix"),
    ({"read_threshold": 0.5}, "read_threshold is set, but policy wait_k does not use it"),
    ({"slot_length": 8, "layout": "turns"}, "slot_length has no meaning in layout: turns"),
    ({"prefix_pairs": True, "layout": "slots"}, "prefix_pairs has no meaning in layout: slots"),
    ({**PAIRS, "rows": "own_unit"}, "rows has no meaning with prefix_pairs: true"),
    ({**PAIRS, "look_ahead_rate": 0.25}, "look_ahead_rate has no meaning with prefix_pairs: true"),
]


@pytest.mark.parametrize("block, message", WITHOUT_MEANING)
def test_key_that_nothing_would_read_is_refused(block, message):
    with pytest.raises(ValueError, match=f"^simulmask.{message}; remove it.$"):
        SimulMaskConfig.from_dict(WAIT_3 | block)


@pytest.mark.parametrize("block, message", WITHOUT_MEANING)
def test_key_that_nothing_would_read_may_have_its_default(block, message):
    """As in every simulmask.json, which holds all keys."""
    key = message.split()[0]
    default = defaults(*LAYOUTS.values(), *POLICIES.values())[key]
    config = SimulMaskConfig.from_dict(WAIT_3 | block | {key: default})
    assert SimulMaskConfig.from_dict(config.keys()) == config


@pytest.mark.parametrize(
    "block, keys, expected",
    [
        ({"look_ahead_rate": 0.5}, {"rows": "own_unit"}, {"rows": "own_unit"}),
        ({"look_ahead_rate": 0.5}, {"k": 5}, {"look_ahead_rate": 0.5, "k": 5}),
        ({"group_offset": 8}, {"positions": "contiguous"}, {"positions": "contiguous"}),
        ({}, {"policy": "read_n", "n": 2}, {"policy": "read_n", "k": None, "n": 2}),
        (
            {"layout": "slots", "slot_length": 8, "next_header": "\nX:", "header": "\nY:"},
            {"layout": "prefix", "positions": "group"},
            {"header": "\nY:"},
        ),
    ],
)
def test_keys_that_mean_nothing_beside_other_ones_leave_with_them(block, keys, expected):
    config = SimulMaskConfig.from_dict(WAIT_3 | block)
    assert config.with_keys(keys) == SimulMaskConfig.from_dict(WAIT_3 | expected)


def test_given_key_that_means_nothing_beside_the_others_is_refused():
    config = SimulMaskConfig.from_dict(WAIT_3 | {"rows": "own_unit"})
    with pytest.raises(ValueError, match="look_ahead_rate has no meaning with rows: own_unit; remove it"):
        config.with_keys({"look_ahead_rate": 0.25})


def documented(cls):
    """The fields that have their docstring under them, here or in a class above."""
    names = set()
    for part in filter(is_dataclass, inspect.getmro(cls)):
        (definition,) = ast.parse(inspect.getsource(part)).body
        for node, below in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr):
                names.add(node.target.id)
    return names


PARTS = {SimulMaskConfig, *POLICIES.values(), *LAYOUTS.values(), *(layout.run_options for layout in LAYOUTS.values())}


@pytest.mark.parametrize("part", sorted(PARTS, key=lambda part: part.__name__))
def test_every_key_is_documented(part):
    assert {field.name for field in fields(part)} <= documented(part)


def test_settings_of_a_version_without_slots_load(tmp_path):
    config = {"policy": "wait_k", "k": 3, "positions": "group"}
    content = {"simulmask_plugin": "0.1.0", "config": config, "prompt": {"before": "Tr:", "header": "\nAs:"}}
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert ModelSettings.load(tmp_path) == ModelSettings(SimulMaskConfig.from_dict(config), Prompt("Tr:", "\nAs:"))


@pytest.mark.parametrize(
    "block, unread",
    [
        ({"policy": "wait_k", "k": 3, "rows": "own_unit"}, {"look_ahead_rate": 0.25}),
        # All keys of all layouts, with a default that has changed since.
        ({"policy": "wait_k", "k": 3, "look_ahead_rate": 1.0}, {"n": None, "slot_length": 16, "prefix_pairs": False}),
    ],
)
@pytest.mark.parametrize("more", [{}, {"trained_on": {"language_pairs": [], "latencies": []}}])
def test_settings_of_a_version_that_let_keys_without_meaning_stand_load(tmp_path, block, unread, more):
    content = {"config": {**block, **unread}, "prompt": {"before": "Tr:", "header": "\nAs:"}, **more}
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert ModelSettings.load(tmp_path).config == SimulMaskConfig.from_dict(block)


def changed(tmp_path, change):
    """Save settings, and change what is in the file."""
    ModelSettings(SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3}), Prompt("T:", "\nA:")).save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    change(content)
    (tmp_path / FILE_NAME).write_text(json.dumps(content))


EDITS = {
    "another k": lambda c: c["config"].update(k=5),
    "key without meaning": lambda c: c["config"].update(slot_length=8),
    "another header": lambda c: c["prompt"].update(header="\nB:"),
    "another version": lambda c: c.update(simulmask_plugin="0.0.9"),
    "key that is gone": lambda c: c.pop("trained_on"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_settings_that_somebody_has_changed_are_refused(tmp_path, edit):
    changed(tmp_path, edit)
    with pytest.raises(ValueError, match=r"simulmask\.json is not as the training wrote it: .*delete the key sha256"):
        ModelSettings.load(tmp_path)


def test_change_that_is_meant_is_accepted_unless_it_contradicts_itself(tmp_path):
    changed(tmp_path, lambda c: (c["config"].update(k=5), c.pop("sha256")))
    assert ModelSettings.load(tmp_path).config.policies == (WaitK(k=5),)
    changed(tmp_path, lambda c: (c["config"].update(slot_length=8), c.pop("sha256")))
    with pytest.raises(ValueError, match=r"is damaged .*slot_length has no meaning in layout: prefix"):
        ModelSettings.load(tmp_path)


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "1.0.0", "10.0.0.dev1", None, 2])
def test_settings_of_a_newer_version_are_refused(tmp_path, version):
    changed(tmp_path, lambda c: c.update(simulmask_plugin=version, more=1))
    with pytest.raises(
        ValueError, match=rf"written by simulmask_plugin {version}, and this is .*; install that version"
    ):
        ModelSettings.load(tmp_path)


def test_directory_without_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no simulmask.json: expected a checkpoint, adapter or merged model"):
        ModelSettings.load(tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"config": {"policy": "offline"}}', '{"config": 1, "prompt": []}'])
def test_damaged_settings_are_refused_by_name(text, tmp_path):
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged .*; copy it again"):
        ModelSettings.load(tmp_path)


@pytest.mark.parametrize(
    "trained, asked, wanted",
    [
        ({"policy": "wait_k", "k": 3}, {}, 3),
        ({"policy": "wait_k", "k": 3}, {"k": 5}, 5),
        ({"policy": "schedule"}, {"policy": "wait_k", "k": 2}, 2),
        (PAIRS, {"policy": "read_n", "n": 4}, 4),
        ({"policy": "wait_k", "k": 3}, {"n": 4}, 4),
        ({"policy": "wait_k", "k": 3}, {"policy": "offline"}, float("inf")),
    ],
)
def test_another_policy_may_be_chosen_at_inference(trained, asked, wanted):
    assert settings_of(**trained).inference_policy(**asked).wanted(1) == wanted


@pytest.mark.parametrize(
    "trained, asked, message",
    [
        ({"policy": "wait_k", "k": "1-3"}, None, "Policy wait_k, trained with k drawn from 1, 2, 3, "),
        ({"policy": "wait_k", "k": "1-3"}, "wait_k", "Policy wait_k, trained with k drawn from 1, 2, 3, "),
        ({"policy": "schedule"}, None, "Policy schedule, whose schedule is a column of the training data, "),
        (
            {"policy": "wait_k", "k": 3},
            "schedule",
            "Policy schedule, whose schedule is a column of the training data, ",
        ),
    ],
)
def test_policy_that_does_not_say_how_to_stream_needs_a_choice(trained, asked, message):
    with pytest.raises(
        ValueError, match=f"^{message}does not say how to stream; choose a policy.*policy: wait_k.*--policy"
    ):
        settings_of(**trained).inference_policy(asked)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"policy": "wait_k", "n": 3}, "^n is set, but policy wait_k does not use it"),
        ({"policy": "offline", "k": 3}, "^k is set, but policy offline does not use it"),
        ({"policy": "wait_9"}, "unknown value 'wait_9'"),
        ({"k": 0}, "^k must be an integer of at least 1"),
    ],
)
def test_bad_inference_policies_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        settings_of(policy="wait_k", k=3).inference_policy(**asked)


def test_only_the_policy_may_be_overridden():
    settings = settings_of(policy="wait_k", k=3)
    settings.check_overrides({"policy": "read_n", "n": 2, "k": None, "positions": "group"})
    with pytest.raises(ValueError, match="positions is 'contiguous', but the model was trained with 'group'"):
        settings.check_overrides({"positions": "contiguous"})
    with pytest.raises(ValueError, match="simulmask: unknown key 'polcy'; known keys: policy, k"):
        settings.check_overrides({"polcy": "offline"})


def test_block_with_another_slot_length_is_refused():
    settings = settings_of(policy="wait_k", k=3, layout="slots", positions="slots", slot_length=8)
    settings.check_overrides({"slot_length": 8})
    free = "policy, k, n, read_threshold, least, most, wander"
    with pytest.raises(
        ValueError, match=f"slot_length is 16, but the model was trained with 8.*only {free} may differ"
    ):
        settings.check_overrides({"slot_length": 16})


def test_block_on_a_command_line_is_json_or_the_message_shows_how():
    assert parse_block('{"policy": "wait_k", "k": 3}') == {"policy": "wait_k", "k": 3}
    message = r"""is neither a mapping nor JSON \(.*--simulmask '\{"policy": "wait_k", "k": 3\}' on a command line"""
    with pytest.raises(ValueError, match=message):
        parse_block("{policy: wait_k}")
