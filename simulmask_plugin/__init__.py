"""Simultaneous translation with large language models, as a plugin for LLaMA-Factory."""

from __future__ import annotations

TYPE_CHECKING = False  # not imported: every start of Python pays for what is imported here
if TYPE_CHECKING:
    from simulmask_plugin.streaming.translator import Translator

__version__ = "0.1.0"


def load(
    model: str,
    adapter: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str | None = None,
) -> Translator:
    """Load a trained model that streams; the arguments are those of `streaming.translator.load`::

    model = simulmask_plugin.load("saves/merged")
    for step in model.stream("ein kleines Haus", policy="wait_k", k=3):
        print(step.action.name, step.text)
    """
    from simulmask_plugin.streaming import translator  # torch is imported only now

    return translator.load(model, adapter, device=device, dtype=dtype, attn_implementation=attn_implementation)
