"""The shell scripts, with programs that only write down how they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CALLS = {
    "train_simulmt_full_sft_stage1": ("llamafactory-cli", "train", "toy_wait_k_stage1_full"),
    "train_simulmt_lora_sft_stage2": ("llamafactory-cli", "train", "toy_wait_k_stage2_lora"),
    "merge_lora": ("llamafactory-cli", "export", "toy_merge"),
    "simul_eval": ("simulmask", "eval", "toy_eval"),
}
"""Script -> program, its command, and the YAML without which it runs."""

STUB = """#!/bin/sh
{ basename "$0"; pwd; printf '%s\\n' "$@"; } >> "$CALLED"
exit "$CODE"
"""


@pytest.fixture
def call(tmp_path):
    """Runs a copy of a script from a folder beside it; returns the exit code and the calls: program, folder, words."""
    root, elsewhere, called = tmp_path / "a root", tmp_path / "elsewhere", tmp_path / "called"
    binaries = root / ".venv" / "bin"
    for folder in (binaries, root / "east_scripts", elsewhere):
        folder.mkdir(parents=True)
    for name in ("llamafactory-cli", "simulmask", "python"):
        (binaries / name).write_text(STUB)
        (binaries / name).chmod(0o755)

    def run(script, *arguments, code=0):
        shutil.copy(ROOT / "east_scripts" / f"{script}.sh", root / "east_scripts")
        command = ["bash", root / "east_scripts" / f"{script}.sh", *arguments]
        environment = os.environ | {"CALLED": str(called), "CODE": str(code)}
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, called.read_text().splitlines() if called.exists() else []

    run.root, run.elsewhere = root, elsewhere
    return run


def test_every_script_is_tested():
    assert {path.stem for path in (ROOT / "east_scripts").glob("*.sh")} == set(CALLS)


@pytest.mark.parametrize("script", CALLS)
def test_given_yaml_and_overrides_reach_the_program(call, script):
    (call.elsewhere / "my config.yaml").touch()
    program, command, _ = CALLS[script]
    overrides = ["simulmask.k=5", "output_dir=a b"]
    expected = [program, str(call.root), command, str(call.elsewhere / "my config.yaml"), *overrides]
    assert call(script, "my config.yaml", *overrides) == (0, expected)


ODD = ["$(touch pwned).yaml", "`touch pwned`.yaml", "a;touch pwned.yaml", "'q\".yaml", "*.yaml", "-x.yaml", "ü\n.yaml"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names_and_nothing_else(call, name):
    (call.elsewhere / name).touch()
    for script, (program, command, _) in CALLS.items():
        path = f"./{name}" if name.startswith("-") else name
        code, calls = call(script, path, "a=$(touch pwned)")
        words = [program, str(call.root), command, str(call.elsewhere / name), "a=$(touch pwned)"]
        assert (code, "\n".join(calls[-len("\n".join(words).split("\n")) :])) == (0, "\n".join(words))
    assert not list(call.root.parent.rglob("pwned"))


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("overrides", [[], ["limit=3"]])
def test_without_a_yaml_the_toy_one_is_taken(call, script, overrides):
    program, command, config = CALLS[script]
    assert (ROOT / "yaml_configs" / f"{config}.yaml").is_file()
    expected = [program, str(call.root), command, str(call.root / "yaml_configs" / f"{config}.yaml"), *overrides]
    code, calls = call(script, *overrides)
    if script == "train_simulmt_full_sft_stage1":  # its data and model are made first
        demo, output = call.root / "east_scripts" / "demo.py", call.root / "output" / "toy"
        preparation = ["python", str(call.elsewhere), str(demo), "--output", str(output), "--prepare"]
        assert calls[: len(preparation)] == preparation
        calls = calls[len(preparation) :]
    assert (code, calls) == (0, expected)


@pytest.mark.parametrize("script", CALLS)
def test_exit_code_is_passed_on(call, script):
    (call.elsewhere / "a.yaml").touch()
    assert call(script, "a.yaml", code=7)[0] == 7


def test_preparation_that_fails_ends_the_script(call):
    code, calls = call("train_simulmt_full_sft_stage1", code=7)
    assert (code, calls[0]) == (7, "python")
    assert "llamafactory-cli" not in calls


@pytest.mark.parametrize("script", CALLS)
def test_yaml_in_a_folder_that_is_not_there_ends_the_script(call, script):
    assert call(script, "nowhere/a.yaml") == (1, [])
