"""RoPE whose frequencies depend on the length of the text, which a kept cache cannot follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BY_LENGTH = ("dynamic", "longrope")
"""Types of RoPE that transformers recomputes from the largest position in a batch."""


def rope_types(config: PreTrainedConfig) -> Iterator[str]:
    """The RoPE types of a model: one, or one for each kind of layer; none for ALiBi."""
    parameters: Mapping[str, Any] = config.get_text_config().to_dict().get("rope_parameters") or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, Mapping))]
    yield from (kind["rope_type"] for kind in kinds if "rope_type" in kind)


def check_rope(config: PreTrainedConfig) -> None:
    """Raise a ValueError where the rotation of RoPE depends on the length of the text.

    In training, the longest example of a batch determines the rotation of every token; while streaming, the text that
    has arrived when the token is fed does, and cached keys keep their rotation.
    """
    for rope_type in rope_types(config):
        if rope_type in BY_LENGTH:
            raise ValueError(
                f"This {config.model_type} has rope_type: {rope_type}, whose frequencies change with the length of the "
                "text, so that a kept cache is not what training saw; set another type in the rope_parameters of its "
                "config.json (default, for texts within the length it was pretrained with; linear; yarn), or take "
                "another model."
            )
