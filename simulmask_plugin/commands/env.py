"""``simulmask env``: what is installed, whether the start-up hook is active, and how to get what is missing."""

from __future__ import annotations

import os
import platform
import site
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version
from rich.text import Text

from simulmask_plugin import __version__
from simulmask_plugin.attention.versions import HIGHEST, LOCKED, LOWEST, WITHOUT_FLASH_ATTENTION_2
from simulmask_plugin.pictures.terminal import console, table, verdict
from simulmask_plugin.startup import LlamaFactoryFinder

HOOK_FILE = "simulmask_plugin.pth"
REINSTALL = "install the plugin again: pip install --no-deps --no-build-isolation -e ."

REQUIRED = {
    "llamafactory": "make install, or uv pip install llamafactory==0.9.5 (README, Install)",
    "transformers": f"pip install transformers=={LOCKED}",
    "torch": "make install, or pip install torch (https://pytorch.org)",
    "peft": "pip install peft==0.18.1",
    "datasets": "pip install datasets==4.0.0",
    "accelerate": "pip install accelerate==1.11.0",
    "sacrebleu": "pip install sacrebleu",
}
OPTIONAL = {
    "simuleval": "for `simulmask eval`: pip install --no-deps simuleval==1.1.4, since its pins cannot be met",
    "deepspeed": "for ZeRO: pip install deepspeed",
    "bitsandbytes": "for quantization_bit (4-bit weights): pip install bitsandbytes",
}


def run_env() -> int:
    """Print the environment; return 1 if something that training needs is missing."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    installed, active = hook_is_installed(), hook_is_active()
    packages = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    rows: list[tuple[str | Text, ...]] = [
        ("simulmask_plugin", __version__, verdict(True), ""),
        ("python", platform.python_version(), verdict(True), sys.executable),
    ]
    for name, found in packages.items():
        needed = name in REQUIRED
        state = verdict(found is not None) if needed or found else "not installed"
        rows.append((name, found or "", state, note(name, found) if found else (REQUIRED | OPTIONAL)[name]))
    rows += [
        ("start-up hook, installed", "", verdict(installed), "" if installed else REINSTALL),
        ("start-up hook, active", "", verdict(active), "" if active else hook_problem()),
    ]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    machine = [
        ("CPU", f"{os.cpu_count()} cores, {platform.machine()}"),
        ("GPU", ", ".join(gpus) or "none"),
        ("attention: sdpa, eager", "take the mask, see `flash_attn` (sdpa, disabled)"),
        ("attention: fa2", flash_attention_2(packages["transformers"], is_flash_attn_2_available())),
    ]
    out = console()
    out.print(table(("package", "version", "", "how to get it"), rows))
    out.print(table(("", ""), machine))
    return 0 if installed and active and all(packages[name] for name in REQUIRED) else 1


def note(package: str, found: str) -> str:
    """A note on an installed version; empty if there is none."""
    if package != "transformers" or Version(LOWEST) <= Version(found) <= Version(HIGHEST):
        return ""
    return f"not tested; tested are {LOWEST} to {HIGHEST}: pip install transformers=={LOCKED}"


def flash_attention_2(transformers: str | None, is_available: bool) -> str:
    """Whether `flash_attn: fa2` can be used."""
    if transformers == WITHOUT_FLASH_ATTENTION_2:
        return f"not with transformers {transformers}, whose FlashAttention 2 cannot start"
    return f"{'installed' if is_available else 'not installed'}; for interleaved and turns, plain causal"


def hook_is_installed() -> bool:
    """Whether Python finds the hook when it starts."""
    folders = {sysconfig.get_path("purelib"), site.getusersitepackages(), *site.getsitepackages()}
    return any(Path(folder, HOOK_FILE).is_file() for folder in folders)


def hook_is_active() -> bool:
    """Whether LLaMA-Factory, if it is imported now, gets the plugin."""
    return any(isinstance(finder, LlamaFactoryFinder) for finder in sys.meta_path)


def hook_problem() -> str:
    """Why the hook is not active, and the remedy."""
    if os.environ.get("SIMULMASK_PLUGIN") == "0":
        return "SIMULMASK_PLUGIN=0 switches the plugin off; unset it."
    return f"{HOOK_FILE} is not in site-packages; {REINSTALL}."


def check_hook() -> None:
    """Refuse to go on if LLaMA-Factory is missing or would not know the ``simulmask:`` block.

    Raises:
        ValueError: with the remedy.
    """
    if _version("llamafactory") is None:
        raise ValueError(f"LLaMA-Factory is not installed; {REQUIRED['llamafactory']}.")
    if not hook_is_active():
        raise ValueError(f"LLaMA-Factory would not know the simulmask: block. {hook_problem()}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
