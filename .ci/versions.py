"""Test the ends of the range of versions that docs/versions.md states; not part of `make test`.

    .venv/bin/python .ci/versions.py                          the lowest, the lock's and the highest transformers
    .venv/bin/python .ci/versions.py --llama-factory FOLDER   LLaMA-Factory's main too, of which FOLDER is a checkout
    .venv/bin/python .ci/versions.py --transformers 5.24.0 --also tokenizers==0.23.1         another transformers alone

Each transformers is installed into a temporary folder that stands before the environment of `make install`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from simulmask_plugin.attention.versions import HIGHEST, LOCKED, LOWEST

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
LLAMA_FACTORY = "https://github.com/hiyouga/LLaMA-Factory"

TESTS = (
    "alibi self_test families multimodal kv_cache cost parity session_contract slots_session attention stock_equality "
    "arguments bad_input startup sft_run trainer adapters exporting quantization matrix agents end_to_end"
).split()
"""Mask, cache, sessions, training, adapters, export and one run from end to end: what knows the two libraries."""


def main() -> int:
    """Run the tests with each version; return 1 if some failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-factory", type=Path, metavar="FOLDER", help="a checkout of LLaMA-Factory's main")
    parser.add_argument("--main-transformers", default="5.8.0", help="the one for it (default: %(default)s)")
    parser.add_argument("--transformers", action="append", help="these versions alone")
    parser.add_argument("--also", action="append", default=[], help="packages beside it, e.g. tokenizers==0.23.1")
    options = parser.parse_args()
    source = options.llama_factory and options.llama_factory.resolve() / "src"
    if source and not (source / "llamafactory").is_dir():
        parser.error(f"--llama-factory {options.llama_factory}: no checkout of LLaMA-Factory, {source} is missing.")
    runs: list[tuple[str, list[Path]]] = [(one, []) for one in options.transformers or (LOWEST, LOCKED, HIGHEST)]
    if source:
        runs.append((options.main_transformers, [source]))
    elif not options.transformers:
        print(f"LLaMA-Factory's main is left out: get it from {LLAMA_FACTORY}, and give its folder.")
    failed = [run for run in runs if not passes(*run, options.also)]
    for version, before in failed:
        print(f"FAILED: transformers {version}", *before)
    return 1 if failed else 0


def passes(version: str, before: list[Path], also: list[str]) -> bool:
    """Whether the tests pass with this transformers, and with what lies in these folders."""
    print(f"transformers {version}", *before, flush=True)
    with TemporaryDirectory() as folder:
        requirements = [f"transformers=={version}", *also]
        subprocess.run([UV, "pip", "install", "--quiet", "--target", folder, "--no-deps", *requirements], check=True)
        path = os.pathsep.join([folder, *map(str, before), str(ROOT)])
        files = [f"tests/test_{name}.py" for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
