"""Feeds what a session asks for to a model; one session, one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import check_attention, check_rope, family_of
from simulmask_plugin.attention.mask import Keys, Queries, attention_bias, mask_argument
from simulmask_plugin.streaming.lane import Counters, Lane, Request, Steps, T


@dataclass(slots=True)
class Feeder:
    """Feeds the rows of one lane to a model.

    Args:
        model: a causal language model in evaluation mode.
        lane: where they go.

    Raises:
        ValueError: if the model's family or attention cannot take our masks.
    """

    model: PreTrainedModel
    lane: Lane = field(default_factory=Lane)
    _accepts_position_ids: bool = field(init=False)

    def __post_init__(self) -> None:
        """Make the model ready for our masks."""
        check_attention(self.model.config, self.model.config._attn_implementation)
        check_rope(self.model.config)
        prepare(self.model)
        self._accepts_position_ids = family_of(self.model.config).accepts_position_ids

    def run(self, steps: Steps[T]) -> T:
        """Feed all that is asked for; return what comes of it."""
        logits: Any = None  # what starts a generator
        while True:
            try:
                request = steps.send(logits)
            except StopIteration as end:
                return end.value
            logits = self.feed(request)

    @torch.inference_mode()
    def feed(self, request: Request) -> Tensor:
        """Feed rows in one call; return the logits of those that predict, (num_predicting, vocabulary), fp32."""
        self.lane.enter(request)
        device = self.model.device
        keys = Keys(*torch.from_numpy(self.lane.keys[:, : len(self.lane.fed_ids)]).to(device)[:, None])
        queries = [(row.token_id, row.order, row.num_read, row.num_hidden, row.position) for row in request.rows]
        ids, order, num_read, num_hidden, position = torch.tensor(queries, device=device).T[:, None]
        inputs: dict[str, Any] = {"position_ids": position} if self._accepts_position_ids else {}
        if request.heads:
            inputs["output_attentions"] = True
        rows = Queries(order, num_read, num_hidden)
        mask = attention_bias(self.model.config, self.model.dtype, rows, keys, request.visible)
        output = self.model(
            input_ids=ids,
            attention_mask=mask_argument(self.model.config, mask),
            past_key_values=self.lane.cache,
            use_cache=True,
            logits_to_keep=request.num_predicting,
            **inputs,
        )
        self.lane.look(request, output.attentions, 0)
        logits = output.logits
        return logits[0].to(torch.promote_types(logits.dtype, torch.float32))


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
