"""The `simulmask:` block and simulmask.json."""

import json
from dataclasses import fields

import pytest
from driving import POLICIES
from test_sessions import CatchUp

from simulmask_plugin.config.block import SimulMaskConfig, defaults, parse_block
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.prefix import Prefix
from simulmask_plugin.policies import POLICIES as POLICIES_OF
from simulmask_plugin.policies import WaitK
from simulmask_plugin.text.prompts import Prompt

BLOCKS = [
    {"policy": "wait_k", "k": 3},
    {"policy": "wait_k", "k": [1, 3, 5], "look_ahead_rate": 0.5},
    {"policy": "wait_k", "k": "1-9", "positions": "contiguous", "rows": "own_unit"},
    {"policy": "read_n", "n": 2, "positions": "modified_alibi", "rows": "query_unit"},
    {"policy": "offline", "source_units": "character", "target_units": "token"},
    {"policy": "schedule", "group_offset": 64, "rows": "next_unit", "prompt": "template"},
    {"policy": "read_n", "n": 2, "positions": "contiguous", "prefix_pairs": True},
    {"policy": "wait_k", "k": 2, "layout": "slots", "positions": "slots", "slot_length": 8, "next_header": "\nX:"},
]
SLOTS = {"policy": "offline", "layout": "slots"}


def settings_of(**block):
    return ModelSettings(SimulMaskConfig.from_dict(block), Prompt("Tr {source_lang}: ", "\nAs:"))


def test_defaults_are_the_recommended_settings():
    config = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3})
    assert config.layout == Prefix(positions="group", rows="look_ahead", look_ahead_rate=1.0)
    assert (config.source_units, config.target_units) == ("word", "word")


@pytest.mark.parametrize("block", BLOCKS)
def test_simulmask_json_round_trip(block, tmp_path):
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


@pytest.mark.parametrize(
    "block, message",
    [
        ({}, "simulmask.policy is missing; expected one of wait_k, read_n, offline, schedule"),
        ({"policy": "wait-k", "k": 3}, "simulmask.policy: unknown value 'wait-k'; expected one of wait_k, read_n"),
        ({"policy": None}, "simulmask.policy: unknown value None; expected one of"),
        (
            {"policy": "wait_k", "k": 3, "postions": "group"},
            "simulmask: unknown key 'postions'; known keys: policy, k, n",
        ),
        (
            {"policy": "wait_k"},
            r"simulmask.k is missing or empty; .*\(source units\) \(layout: prefix, policy: wait_k\)",
        ),
        ({"policy": "read_n", "k": 3, "n": 2}, "simulmask.k is set, but policy read_n does not use it; remove it"),
        ({"policy": "offline", "n": 2}, "simulmask.n is set, but policy offline does not use it; remove it"),
        ({"policy": "wait_k", "k": 0}, "simulmask.k must be an integer of at least 1 .*, got 0"),
        ({"policy": "wait_k", "k": 2.5}, "simulmask.k must be an integer of at least 1 .*, got 2.5"),
        ({"policy": "wait_k", "k": [3, 0]}, "simulmask.k must be an integer of at least 1 .*, got 0"),
        ({"policy": "wait_k", "k": []}, "simulmask.k is an empty list; expected at least one k"),
        ({"policy": "wait_k", "k": "3-1"}, "k must be an integer, a list, or a range such as \"1-9\", got '3-1'"),
        ({"policy": "wait_k", "k": "1-30000000"}, r"The end of the range k must be .* at most 10000 .*, got 30000000"),
        ({"policy": "wait_k", "k": 10001}, r"simulmask\.k must be an integer of at least 1 and at most 10000"),
        ({"policy": "read_n", "n": 1e9}, r"simulmask\.n must be an integer of at least 1 .*, got 1000000000\.0"),
        ({"policy": "wait_k", "k": "three"}, "k must be an integer, a list, or a range .* got 'three'"),
        ({"policy": "offline", "layout": "suffix"}, "simulmask.layout: unknown value 'suffix'; expected one of prefix"),
        ({"policy": "offline", "positions": "alibi"}, "simulmask.positions: unknown value 'alibi'; expected one of"),
        ({"policy": "offline", "rows": "lookahead"}, "simulmask.rows: unknown value 'lookahead'; expected one of"),
        ({"policy": "offline", "source_units": "char"}, "simulmask.source_units: unknown value 'char'; .* character"),
        ({"policy": "offline", "target_units": "words"}, "simulmask.target_units: unknown value 'words'; .* word"),
        ({"policy": "offline", "prompt": "chat"}, "simulmask.prompt: unknown value 'chat'; .* plain, template"),
        ({"policy": "offline", "look_ahead_rate": 1.5}, r"look_ahead_rate must lie in 0\.\.1, got 1\.5"),
        ({"policy": "offline", "look_ahead_rate": True}, r"look_ahead_rate must lie in 0\.\.1, got True"),
        ({"policy": "offline", "look_ahead_rate": "all"}, r"look_ahead_rate must lie in 0\.\.1, got 'all'"),
        ({"policy": "offline", "look_ahead_rate": None}, r"look_ahead_rate must lie in 0\.\.1, got None"),
        (
            {"policy": "offline", "group_offset": -1},
            "group_offset must be an integer of at least 0 .*, got -1",
        ),
        ({"policy": "offline", "group_offset": 0.5}, "group_offset must be an integer .*, got 0.5"),
        ({"policy": "offline", "group_offset": True}, "group_offset must be an integer .*, got True"),
        ({"policy": "offline", "slot_length": 8}, "simulmask.slot_length has no meaning in layout: prefix; remove it"),
        ({**SLOTS, "slot_length": 0}, r"slot_length must be an integer of at least 1 .*\(tokens\), got 0"),
        ({**SLOTS, "slot_length": 1.5}, "slot_length must be an integer of at least 1 .*, got 1.5"),
        ({**SLOTS, "slot_length": True}, "slot_length must be an integer of at least 1 .*, got True"),
        (
            {**SLOTS, "positions": "group"},
            r"simulmask.positions: unknown value 'group'; expected one of slots \(layout",
        ),
        ({"policy": "offline", "positions": "slots"}, "positions: unknown value 'slots'; expected one of contiguous"),
        ({"policy": "offline", "next_header": None}, "simulmask.next_header must be a text, got None"),
        ({"policy": "offline", "next_header": "{lang}"}, r"Unknown placeholder \{lang\}"),
        ({"policy": "offline", "header": ""}, "header is empty"),
        ({"policy": "offline", "instruction": "{lang}"}, r"Unknown placeholder \{lang\}"),
        ({"policy": "offline", "instruction": 5}, "simulmask.instruction must be a text, got 5"),
        ({"policy": "offline", "header": None}, "simulmask.header must be a text, got None"),
        ({"policy": "offline", "source_lang": None}, "simulmask.source_lang must be a text, got None"),
        ({"policy": "offline", "target_lang": False}, "simulmask.target_lang must be a text, got False"),
        ("wait_k", "The simulmask: block must be a mapping of keys to values, got 'wait_k'"),
    ],
)
def test_bad_blocks_are_refused(block, message):
    with pytest.raises(ValueError, match=message):
        SimulMaskConfig.from_dict(block)


PAIRS = {"prefix_pairs": True, "positions": "contiguous"}
WAIT_2 = {"policy": "wait_k", "k": 2, **PAIRS}
REFUSED_PAIRS = {
    "no boolean": ({**WAIT_2, "prefix_pairs": "yes"}, r"prefix_pairs must be true or false, got 'yes'"),
    "a number": ({**WAIT_2, "prefix_pairs": 1}, r"prefix_pairs must be true or false, got 1"),
    "list of k": ({**WAIT_2, "k": [1, 3]}, r"simulmask\.k: the list 1, 3 does not go with prefix_pairs.*; set one k"),
    "range of k": ({**WAIT_2, "k": "2-4"}, r"simulmask\.k: the list 2, 3, 4 does not go .*; set one k"),
    "group": (
        {**WAIT_2, "positions": "group"},
        r"positions: group does not go with prefix_pairs: true, .*; set positions: contiguous or remove prefix_pairs",
    ),
    "default positions": (
        {"policy": "offline", "prefix_pairs": True},
        r"positions: group does not go with prefix_pairs: true",
    ),
    "modified_alibi": (
        {**WAIT_2, "positions": "modified_alibi"},
        r"positions: modified_alibi does not go with prefix_",
    ),
    "turns": (
        {**WAIT_2, "layout": "turns"},
        r"prefix_pairs has no meaning in layout: turns; remove it",
    ),
    "slots": ({**WAIT_2, "layout": "slots", "positions": "slots"}, r"prefix_pairs has no meaning in layout: slots"),
    "interleaved": (
        {"layout": "interleaved", "prefix_pairs": True},
        r"prefix_pairs has no meaning in layout: interleaved",
    ),
    "rows": ({**WAIT_2, "rows": "own_unit"}, r"simulmask\.rows has no meaning with prefix_pairs: true; remove it"),
    "rate": ({**WAIT_2, "look_ahead_rate": 0.5}, r"look_ahead_rate has no meaning with prefix_pairs: true; remove it"),
}


@pytest.mark.parametrize(("block", "message"), REFUSED_PAIRS.values(), ids=REFUSED_PAIRS)
def test_what_does_not_go_with_pairs_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        SimulMaskConfig.from_dict(block)


@pytest.mark.parametrize("value, k", [(3, 3), ("3", 3), ("1-4", (1, 2, 3, 4)), ("2-2", 2), ([1, 5], (1, 5)), ([4], 4)])
def test_golden_k(value, k):
    assert SimulMaskConfig.from_dict({"policy": "wait_k", "k": value}).keys()["k"] == k


def test_several_k_make_several_policies():
    policies = SimulMaskConfig.from_dict({"policy": "wait_k", "k": "1-3"}).policies
    assert [policy.wanted(1) for policy in policies] == [1, 2, 3]


def test_lists_of_several_parameters_are_combined(monkeypatch):
    monkeypatch.setitem(POLICIES_OF, "catch_up", CatchUp)
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


WAIT_3 = {"policy": "wait_k", "k": 3}
WITHOUT_MEANING = [
    ({"look_ahead_rate": 0.5, "rows": "own_unit"}, "look_ahead_rate has no meaning with rows: own_unit"),
    ({"look_ahead_rate": 0.5, "target_units": "token"}, "look_ahead_rate has no meaning with target_units: token"),
    ({"look_ahead_rate": 0.5, "layout": "turns"}, "look_ahead_rate has no meaning in layout: turns"),
    ({"rows": "own_unit", "layout": "turns"}, "rows has no meaning in layout: turns"),
    ({"group_offset": 8, "positions": "contiguous"}, "group_offset has no meaning with positions: contiguous"),
    ({"group_offset": 8, "layout": "slots"}, "group_offset has no meaning in layout: slots"),
    ({"slot_length": 8}, "slot_length has no meaning in layout: prefix"),
    ({"header": "\nX:", "prompt": "template"}, "header has no meaning with prompt: template"),
    ({"next_header": "\nX:"}, "next_header has no meaning in layout: prefix"),
    (
        {"next_header": "\nX:", "layout": "turns", "prompt": "template"},
        "next_header has no meaning with prompt: template",
    ),
    ({"loss_on": "target"}, "loss_on has no meaning in layout: prefix"),
    ({"special_token_weight": 2}, "special_token_weight has no meaning in layout: prefix"),
    ({"read_threshold": 0.5}, "read_threshold is set, but policy wait_k does not use it"),
    (
        {"rows": "own_unit", "positions": "contiguous", "prefix_pairs": True},
        "rows has no meaning with prefix_pairs: true",
    ),
]


@pytest.mark.parametrize("block, message", WITHOUT_MEANING)
def test_key_that_nothing_would_read_is_refused(block, message):
    with pytest.raises(ValueError, match=f"^simulmask.{message}; remove it.$"):
        SimulMaskConfig.from_dict(WAIT_3 | block)


@pytest.mark.parametrize("block, message", WITHOUT_MEANING)
def test_key_that_nothing_would_read_may_have_its_default(block, message):
    """As in every simulmask.json, which holds all keys."""
    key = message.split()[0]
    default = defaults(*LAYOUTS.values(), *POLICIES_OF.values())[key]
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
        config.with_keys({"look_ahead_rate": 0.5})


def test_every_key_of_the_block_is_documented():
    """Each field has its docstring under it."""
    import ast
    import inspect

    (definition,) = ast.parse(inspect.getsource(SimulMaskConfig)).body
    body = definition.body
    documented = {
        node.target.id
        for node, below in zip(body, body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
    assert documented == {field.name for field in fields(SimulMaskConfig)}


@pytest.mark.parametrize("policy", POLICIES)
def test_simulmask_json_carries_prefix_pairs(tmp_path, policy):
    settings = settings_of(**POLICIES[policy], **PAIRS)
    settings.save(tmp_path)
    assert ModelSettings.load(tmp_path) == settings
    assert json.loads((tmp_path / "simulmask.json").read_text())["config"]["prefix_pairs"] is True


def test_settings_of_a_version_without_slots_load(tmp_path):
    config = {"policy": "wait_k", "k": 3, "positions": "group"}
    content = {"simulmask_plugin": "0.1.0", "config": config, "prompt": {"before": "Tr:", "header": "\nAs:"}}
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert ModelSettings.load(tmp_path) == ModelSettings(SimulMaskConfig.from_dict(config), Prompt("Tr:", "\nAs:"))


def test_settings_of_a_version_that_let_keys_without_meaning_stand_load(tmp_path):
    own_unit = {"policy": "wait_k", "k": 3, "rows": "own_unit"}
    content = {"config": {**own_unit, "look_ahead_rate": 0.5}, "prompt": {"before": "Tr:", "header": "\nAs:"}}
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert ModelSettings.load(tmp_path).config == SimulMaskConfig.from_dict(own_unit)


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


def test_settings_with_a_key_that_nothing_reads_are_refused(tmp_path):
    changed(tmp_path, lambda c: c.update(beams=3))
    with pytest.raises(ValueError, match=r"simulmask\.json: unknown key 'beams'; known keys: simulmask_plugin, config"):
        ModelSettings.load(tmp_path)


def test_directory_without_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no simulmask.json: expected a checkpoint, adapter or merged model"):
        ModelSettings.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"config": {"policy": "offline"}}', '{"config": 1, "prompt": []}']
)
def test_damaged_settings_are_refused_by_name(text, tmp_path):
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged .*; copy it again"):
        ModelSettings.load(tmp_path)


@pytest.mark.parametrize(
    "trained, asked, wanted",
    [
        ({"policy": "wait_k", "k": 3}, {}, 3),
        ({"policy": "wait_k", "k": 3}, {"k": 5}, 5),
        ({"policy": "wait_k", "k": "1-9"}, {"k": 7}, 7),
        ({"policy": "schedule"}, {"policy": "wait_k", "k": 2}, 2),
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
    message = "slot_length is 16, but the model was trained with 8.*only policy, k, n, read_threshold may differ here"
    with pytest.raises(ValueError, match=message):
        settings.check_overrides({"slot_length": 16})


def test_block_on_a_command_line_is_json_or_the_message_shows_how():
    assert parse_block('{"policy": "wait_k", "k": 3}') == {"policy": "wait_k", "k": 3}
    message = r"""is neither a mapping nor JSON \(.*--simulmask '\{"policy": "wait_k", "k": 3\}' on a command line"""
    with pytest.raises(ValueError, match=message):
        parse_block("{policy: wait_k}")
