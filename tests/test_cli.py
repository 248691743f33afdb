"""The command `simulmask`: help, exit codes, and one-line errors; validate and parity on tiny models."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from driving import error, llama_factory, write_model, write_setup

from simulmask_plugin.attention.families import FAMILIES, tiny_model
from simulmask_plugin.cli import main
from simulmask_plugin.commands import arguments
from simulmask_plugin.commands import env as environment
from simulmask_plugin.commands import parity as matrix
from simulmask_plugin.commands.parity import WAIT_K, byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.policies import WaitK
from simulmask_plugin.startup import LlamaFactoryFinder
from simulmask_plugin.streaming.parity import compare
from simulmask_plugin.text.prompts import Prompt

ROOT = Path(__file__).parents[1]

COMMANDS = (
    "validate",
    "smoke",
    "show",
    "parity",
    "attention",
    "heads",
    "probe",
    "translate",
    "serve",
    "calibrate",
    "eval",
    "trace",
    "curve",
    "compare",
    "verify-merge",
    "env",
)

RECORD_KEYS = [
    "family",
    "attention",
    "layout",
    "positions",
    "rows",
    "policy",
    "source_units",
    "target_units",
    "max_abs_diff",
    "stock_diff",
    "max_logit",
    "promised",
    "holds",
]


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)], ids=["simulmask", *COMMANDS])
def test_help_has_an_example_and_the_exit_codes(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    output = capsys.readouterr().out
    assert f"example: simulmask {' '.join(command)}" in output
    assert "exit codes: 0 ok, 1 a check failed, 2 bad input" in output
    for path in re.findall(r"yaml_configs/[\w.]+", output):
        assert (ROOT / path).is_file(), path


def test_every_command_is_listed_here(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert tuple(re.findall(r"^    (\S+)", capsys.readouterr().out, re.MULTILINE)) == COMMANDS


def test_help_imports_nothing_heavy():
    code = "import sys, simulmask_plugin.cli as cli\ntry: cli.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "transformers", "rich", "matplotlib"} & set(output.split())


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("SIMULMASK_DEBUG", "1")
    with pytest.raises(ValueError, match="simulmask.k must be an integer"):
        main(["show", "--k", "0"])


def test_every_option_reaches_the_command(monkeypatch):
    taken = []
    for name in ("show", "parity"):
        monkeypatch.setitem(arguments.COMMANDS, name, (arguments.COMMANDS[name][0], taken.append))
    main("show --k 1-3 --layout slots --slot-length 4 --prefix-pairs --source-units token a.yaml b=c".split())
    main(
        "parity a.yaml b=c --model m --adapter a --family llama mpt --source-lang S --target-lang T --matrix "
        "--examples 2 --length 8 --seed 5 --float64 --json d=e".split()
    )
    shown, compared = taken
    block = {"layout": "slots", "source_units": "token", "k": "1-3", "prefix_pairs": True, "slot_length": 4}
    assert (shown.given, shown.config, shown.overrides) == (block, "a.yaml", ["b=c"])
    assert list(vars(compared).values()) == [
        *("a.yaml", ["b=c", "d=e"], "m", "a", "S", "T", ["llama", "mpt"]),
        *(True, 2, 8, 5, True, True),
    ]


def test_env_lists_packages_and_hook(capsys):
    assert main(["env"]) == 0
    output = capsys.readouterr().out
    for name in (
        "llamafactory",
        "transformers",
        "peft",
        "deepspeed",
        "simuleval",
        "bitsandbytes",
        "start-up hook, active",
        "GPU",
    ):
        assert name in output


@pytest.mark.parametrize("version, is_tested", [("5.5.1", False), ("5.5.2", True), ("5.6.0", True), ("5.24.0", False)])
def test_env_says_which_transformers_are_not_tested(capsys, monkeypatch, version, is_tested):
    monkeypatch.setattr(environment, "_version", lambda package: version)
    main(["env"])
    output = " ".join(capsys.readouterr().out.split())
    assert ("not tested; tested are 5.5.2 to 5.6.0" in output) != is_tested
    assert ("not with transformers 5.6.0, whose FlashAttention 2" in output) == (version == "5.6.0")


# validate


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        yield write_setup(tmp_path_factory.mktemp("training"))


@llama_factory
def test_validate_says_what_training_will_do(training, capsys):
    assert main(["validate", str(training)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for words in (
        "family llama, rope",
        "8 examples per device (4 x 2 accumulated)",
        "attention sdpa (flash_attn: auto)",
        "policy wait_k, k = 1",
        "units source word, target word",
        "rows.jsonl source, target 2",
        "Translate the following sentence from English to German:",
        "g(1..T+1) = 1 2 2",
        "␣h 266 T target -1 2",  # of "house", which sees g(2) = 2
        "Valid.",
    ):
        assert words in output


@llama_factory
def test_tokens_of_a_template_need_rows_of_the_model(training, capsys):
    """LLaMA-Factory adds an end of sentence that the tokenizer lacks, and would then train without a row for it."""
    template = ("template=llama3", "simulmask.prompt=template")
    message = error(capsys, "validate", training, *template)
    assert re.search(r"token <\|eot_id\|> .* embedding has only \d+ rows; set resize_vocab: true", message)
    assert main(["validate", str(training), *template, "resize_vocab=true"]) == 0


@llama_factory
def test_validate_knows_the_sliding_window(training, capsys, tmp_path):
    tiny_model("mistral", 300, 0, sliding_window=64).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    message = error(capsys, "validate", training, f"model_name_or_path={tmp_path}")
    assert "sliding window of 64 tokens" in message
    assert "Lower cutoff_len to 64" in message


def test_validate_needs_the_start_up_hook(training, capsys, monkeypatch):
    finders = [finder for finder in sys.meta_path if not isinstance(finder, LlamaFactoryFinder)]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.setenv("SIMULMASK_PLUGIN", "0")
    message = error(capsys, "validate", training)
    assert message.startswith("LLaMA-Factory would not know the simulmask: block.")
    assert message.endswith("SIMULMASK_PLUGIN=0 switches the plugin off; unset it.")


@llama_factory
def test_show_takes_its_defaults_from_a_training_yaml(training, capsys):
    assert main(["show", str(training), "--json", "--k", "2"]) == 0
    picture = json.loads(capsys.readouterr().out)
    assert picture["schedule"] == [2, 2, 2]
    assert "".join(picture["tokens"]).endswith("German: ein haus\nAssistant: a house</s>")


@llama_factory
@pytest.mark.parametrize("before", [True, False])
def test_commands_that_only_look_take_overrides_anywhere(training, capsys, before):
    override, options = ["simulmask.k=2"], ["--examples", "1", "--json"]
    given = [*override, *options] if before else [*options, *override]
    assert main(["parity", str(training), *given, "simulmask.rows=own_unit"]) == 0
    assert {cell["rows"] for cell in json.loads(capsys.readouterr().out)} == {"own_unit"}
    assert main(["show", str(training), "--json", *override]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == [2, 2, 2]
    assert "simulmask: unknown key 'kk'" in error(capsys, "show", training, "--json", "simulmask.kk=2")


@pytest.mark.parametrize("command", ["show", "parity", "validate"])
def test_overrides_need_a_yaml(capsys, command):
    message = "simulmask.k=2: no such file; name the YAML before the keys that you replace."
    assert error(capsys, command, "simulmask.k=2") == message


@pytest.mark.parametrize("command", [["show", "x.yaml", "--k", "2", "y.yaml"], ["env", "a=b"], ["show", "--kk=2"]])
def test_words_that_no_command_knows_are_refused(capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "unrecognized arguments" in capsys.readouterr().err


@llama_factory
def test_commands_that_only_look_take_the_yaml_of_a_run_that_is_done(training, tmp_path, capsys):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(training.read_text()) | {"output_dir": str(tmp_path)}))
    (tmp_path / "checkpoint-9").mkdir()
    assert main(["show", str(path)]) == 0
    assert main(["parity", str(path), "--examples", "1"]) == 0
    assert "already holds a run" in error(capsys, "validate", path)


# evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model with its simulmask.json."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = byte_tokenizer()
    block = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 12, "positions": "modified_alibi"})
    settings = ModelSettings(block, Prompt("T:", "\nA:"))
    return write_model(folder, tiny_model("bloom", len(tokenizer), 0), tokenizer, settings)


@pytest.fixture
def evaluation(trained, tmp_path):
    (tmp_path / "test.source").write_text("ein haus\nzwei\n")
    (tmp_path / "test.target").write_text("a house\ntwo\n")
    keys = {
        "model": str(trained),
        "source": str(tmp_path / "test.source"),
        "target": str(tmp_path / "test.target"),
        "output": str(tmp_path / "output"),
        "policies": [{"policy": "wait_k", "k": 1}, {"policy": "offline"}],
    }
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def test_validate_says_what_an_evaluation_will_do(evaluation, capsys):
    assert main(["validate", str(evaluation)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for words in (
        "policies wait_k-1, offline",
        "attn_implementation eager",
        "policy wait_k, k = 12",
        "g(1..T+1) = 1 2 2",
        "Valid.",
    ):
        assert words in output


# parity


def records(capsys, *options):
    code = main(["parity", "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def test_parity_of_a_family_is_a_list_of_records(capsys):
    code, cells = records(capsys, "--family", "llama", "--examples", "1")
    assert code == 0
    assert [list(cell) for cell in cells] == [RECORD_KEYS] * 8
    assert {cell["attention"] for cell in cells} == {"sdpa", "eager"}
    assert {cell["policy"] for cell in cells} == {"wait_k", "read_n", "offline", "schedule"}
    assert all(cell["promised"] and cell["holds"] and cell["max_logit"] > 1 for cell in cells)


def test_parity_of_a_model_takes_its_own_settings(trained, capsys):
    code, cells = records(capsys, "--model", str(trained), "--examples", "2")
    assert (code, len(cells)) == (0, 4)
    assert {(cell["family"], cell["positions"]) for cell in cells} == {("bloom", "modified_alibi")}


@llama_factory
def test_parity_of_a_training_yaml(training, capsys):
    code, cells = records(capsys, str(training), "--examples", "1")
    assert (code, {(cell["family"], cell["positions"]) for cell in cells}) == (0, {("llama", "group")})


def test_matrix_tries_every_setting_and_finds_parity_where_it_is_promised(capsys, monkeypatch):
    tried = []

    def record(model, encoder, row, result, *, policy_index):
        config = encoder.settings.config
        if config.policy is WaitK and config.source_units == "word":
            tried.append((config.policies[policy_index].k, encoder.encode(row).source_lengths))
        compare(model, encoder, row, result, policy_index=policy_index)

    monkeypatch.setattr("simulmask_plugin.commands.parity.compare", record)
    code, cells = records(capsys, "--matrix", "--family", "falcon", "--examples", "1")
    assert code == 0
    assert len({tuple(cell[key] for key in RECORD_KEYS[:6]) for cell in cells}) == 2 * (3 * 4 * 4 + 1 + 4 + 4 * 4)
    assert len({(cell["source_units"], cell["target_units"]) for cell in cells}) == 6
    assert all(cell["holds"] for cell in cells if cell["promised"])
    assert not all(cell["holds"] for cell in cells)
    assert {k for k, _ in tried} == set(WAIT_K)
    assert any(k > len(source_lengths) for k, source_lengths in tried)
    assert any(source_lengths.max() > 1 for _, source_lengths in tried)


def test_matrix_over_a_block_drops_what_other_settings_do_not_read():
    block = {"policy": "wait_k", "k": 3, "group_offset": 8, "look_ahead_rate": 0.25}
    settings = ModelSettings(SimulMaskConfig.from_dict(block), Prompt("a:", "b:"))
    cells = [cell.config for cell in matrix._cells(settings, FAMILIES["llama"], True)]
    assert {(cell.layout.positions, cell.layout.group_offset) for cell in cells} == {("group", 8), ("contiguous", 0)}
    rates = {row: 0.25 if row == "look_ahead" else 0.5 for row in CONVENTIONS}
    assert {cell.layout.rows: cell.layout.look_ahead_rate for cell in cells} == rates
