"""The FLOPs of a session, against torch's own counter."""

import pytest
import torch
from driving import FAMILY_ATTENTION, drive, encoder_of
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.unit_session import StreamingSession

# torch counts the fused attention of CUDA, by this formula, and leaves that of the CPU out
FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *rest, out_shape=None, **options: sdpa_flop_count(query, key, value)
    )
}


@pytest.mark.parametrize(("name", "attention"), FAMILY_ATTENTION)
def test_closed_form_equals_torchs_counter(model_of, byte_level, name, attention):
    """The counter sees every matrix product of the real calls, the attention's over the cache among them; the
    angles of rotary positions, which transformers multiplies out as matrices, are left out."""
    model = model_of(name, len(byte_level), 0, attn_implementation=attention)
    if name == "qwen3_moe":  # of which torch counts only the experts that are called one by one
        model.set_experts_implementation("eager")
    encoder = encoder_of(byte_level, policy="wait_k", k=2, positions="group")
    session = StreamingSession(
        model=model, encoder=encoder, policy=encoder.settings.config.policies[0], max_target_tokens=9
    )
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        drive(session, "the dog abc cat".split())
    assert session.counters.calls > 3
    counts = counter.get_flop_counts()
    angles = sum(sum(count.values()) for module, count in counts.items() if module.endswith("rotary_emb"))
    assert angles < 1e-3 * counter.get_total_flops()
    assert session_flops(model, session.counters) == counter.get_total_flops() - angles
