"""What is fitted to a model once, and saved beside it, for policies that ask it while streaming."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.policies import Policy
from simulmask_plugin.streaming.lane import Heads
from simulmask_plugin.streaming.probe import FILE_NAME, Probe

HEADS = "simulmask_heads.json"
AID_FILES = {"probe": FILE_NAME, "heads": HEADS}
"""Command that makes it -> its file beside the model."""


@dataclass(frozen=True, slots=True)
class Aids:
    """A probe, and the attention heads that align; what a model lacks is empty."""

    probe: Probe | None = None
    heads: Heads = ()

    @classmethod
    def load(cls, folder: Path) -> Aids:
        """Read those of a model."""
        path = folder / HEADS
        heads = read_json(path)["heads"] if path.is_file() else ()
        return cls(Probe.load(folder), tuple((layer, head) for layer, head in heads))

    def check(self, policy: Policy) -> None:
        """Raise a ValueError, with the command that makes it, if a policy needs what is not there."""
        texts = "MODEL --source TRAIN.SOURCE --target TRAIN.TARGET"
        needs = {
            f"a probe ({FILE_NAME}), which `simulmask probe {texts}` fits": policy.needs_probe and not self.probe,
            f"attention heads ({HEADS}), which `simulmask heads {texts} --alignments LINKS` finds": policy.needs_heads
            and not self.heads,
        }
        for what, is_missing in needs.items():
            if is_missing:
                raise ValueError(f"policy: {policy.name} needs {what}, and the model has none.")


def needed(policy: Policy) -> tuple[str, ...]:
    """The commands whose results a policy asks."""
    needs = {"probe": policy.needs_probe, "heads": policy.needs_heads}
    return tuple(command for command, is_needed in needs.items() if is_needed)


def save_heads(folder: Path, heads: Heads) -> None:
    """Write the heads that align, as (layer, head), beside a model."""
    write_text(folder / HEADS, json.dumps({"heads": heads}) + "\n")
