"""What streaming costs in floating-point operations, from the session's counters."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from simulmask_plugin.feeding import Counters


def session_flops(model: PreTrainedModel, counters: Counters) -> int:
    """Return the FLOPs of a session's forward passes: two per weight and token, and the attention's two products.

    Matrix products only, as torch's own counter has it: norms, activations and the softmax are left out. The output
    head counts for the rows that predict alone.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    body = sum(_weights(module, config) for module in model.get_decoder().modules() if module is not head)
    attention = 4 * _attention_width(config) * counters.attended_pairs
    return 2 * body * counters.fed_tokens + 2 * head.weight.numel() * counters.predicting_rows + attention


def _weights(module: nn.Module, config: PreTrainedConfig) -> int:
    """Weights of a module's own matrices that a token meets: of stacked experts, those of the ones it is sent to."""
    if isinstance(module, nn.Embedding):
        return 0
    own = list(module.parameters(recurse=False))
    matrices = sum(weight.numel() for weight in own if weight.ndim == 2)
    return matrices + sum(weight[0].numel() * config.num_experts_per_tok for weight in own if weight.ndim == 3)


def _attention_width(config: PreTrainedConfig) -> int:
    """Heads times their dimension, summed over the layers; that of Gemma 4's full layers is another."""
    values = config.to_dict()
    width = values.get("head_dim") or config.hidden_size // config.num_attention_heads
    full = values.get("global_head_dim") or width
    kinds = values.get("layer_types") or ["sliding_attention"] * config.num_hidden_layers
    return config.num_attention_heads * sum(full if kind == "full_attention" else width for kind in kinds)
