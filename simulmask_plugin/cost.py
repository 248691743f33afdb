"""What streaming costs in floating-point operations, from the session's counters."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from simulmask_plugin.feeding import Counters


def session_flops(model: PreTrainedModel, counters: Counters) -> int:
    """Return the FLOPs of a session's forward passes: two per weight and token, and the attention's two products.

    Matrix products only, as torch's own counter has it: norms, activations and the softmax are left out. The output
    head counts for the rows that predict alone.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    body = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    attention_width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 4 * config.num_hidden_layers * attention_width * counters.attended_pairs
    return 2 * body * counters.fed_tokens + 2 * head.weight.numel() * counters.predicting_rows + attention
