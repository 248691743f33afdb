"""One 4D float mask for every family equals what the family does by itself."""

from operator import attrgetter

import peft
import pytest
import torch
from driving import FAMILY_ATTENTION
from stock_modeling import MODELING, put_back
from transformers import DynamicCache

from simulmask_plugin.attention.alibi import SEAMS, additive_mask, alibi_slopes, prepare
from simulmask_plugin.attention.families import FAMILIES, family_of, tiny_config, tiny_model

VOCAB = 50
LENGTHS = (12, 7)
ALIBI = [case for case in FAMILY_ATTENTION if FAMILIES[case[0]].position == "alibi"]


def padded_batch():
    """Token ids and the 2D mask of two sentences, the second padded on the right."""
    ids = torch.randint(3, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids * mask, mask


def our_inputs(model, may_attend, rank, positions):
    """Return the inputs of a model that say who may attend to whom, and where it stands."""
    mask = additive_mask(model.config, may_attend, rank, model.dtype)
    inputs = {"attention_mask": mask}
    return inputs | {"position_ids": positions} if family_of(model.config).accepts_position_ids else inputs


def causal_inputs(model, batch_size, num_tokens, start=0):
    """Plain causal attention of the rows from `start` on."""
    may_attend = torch.ones(batch_size, 1, num_tokens, num_tokens, dtype=torch.bool).tril()[:, :, start:]
    rank = torch.arange(num_tokens).expand(may_attend.shape)
    return our_inputs(model, may_attend, rank, torch.arange(start, num_tokens).expand(batch_size, -1))


def stock_model(name, implementation):
    """Return the same weights in stock attention; never eager Falcon, which applies ALiBi twice."""
    return tiny_model(name, VOCAB, 0, "sdpa" if name == "falcon" else implementation)


def our_model(name, implementation):
    model = tiny_model(name, VOCAB, 0, implementation)
    prepare(model)
    return model


@pytest.mark.parametrize("name, implementation", FAMILY_ATTENTION)
@torch.no_grad()
def test_causal_mask_equals_stock_with_padding(name, implementation):
    ids, mask = padded_batch()
    model = our_model(name, implementation)
    expected = stock_model(name, implementation)(ids, attention_mask=mask).logits
    logits = model(ids, **causal_inputs(model, *ids.shape)).logits
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, implementation", FAMILY_ATTENTION)
@torch.no_grad()
def test_hidden_tokens_that_leave_no_gap_equal_absent_tokens(name, implementation):
    """Rows 5.. do not see keys 3 and 4, an unread source, and stand as if those were not there."""
    ids, _ = padded_batch()
    num_tokens = ids.shape[1]
    kept = [index for index in range(num_tokens) if index not in (3, 4)]
    may_attend = torch.ones(len(ids), 1, num_tokens, num_tokens, dtype=torch.bool).tril()
    may_attend[:, :, 5:, 3:5] = False
    place = torch.arange(num_tokens)
    place[5:] -= 2
    model = our_model(name, implementation)
    inputs = our_inputs(model, may_attend, place.expand(may_attend.shape), place.expand(len(ids), -1))
    logits = model(ids, **inputs).logits
    expected = stock_model(name, implementation)(ids[:, kept]).logits
    torch.testing.assert_close(logits[:, kept], expected, atol=1e-5, rtol=1e-5)
    plain = model(ids, **causal_inputs(model, *ids.shape)).logits
    assert (logits[:, 5:] - plain[:, 5:]).abs().amax(-1).min() > 0.05


@pytest.mark.parametrize("name, implementation", FAMILY_ATTENTION)
@torch.no_grad()
def test_place_of_a_key_changes_the_logits(name, implementation):
    ids, _ = padded_batch()
    model = our_model(name, implementation)
    may_attend = torch.ones(len(ids), 1, 12, 12, dtype=torch.bool).tril()
    place = 2 * torch.arange(12)
    stretched = model(ids, **our_inputs(model, may_attend, place.expand(may_attend.shape), place.expand(2, -1))).logits
    plain = model(ids, **causal_inputs(model, *ids.shape)).logits
    assert (stretched - plain)[:, 1:].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name, implementation", FAMILY_ATTENTION)
@torch.no_grad()
def test_cached_calls_equal_the_full_call(name, implementation):
    """Ragged calls: a prompt, several tokens at once, single tokens."""
    ids, _ = padded_batch()
    model = our_model(name, implementation)
    expected = model(ids, **causal_inputs(model, *ids.shape)).logits
    cache = DynamicCache()
    bounds = [0, 5, 10, 11, 12]
    logits = [
        model(ids[:, start:end], past_key_values=cache, **causal_inputs(model, len(ids), end, start)).logits
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, atol=1e-5, rtol=1e-5)


def loss_and_gradients(model, ids, labels, **inputs):
    model.zero_grad()
    loss = model(ids, labels=labels, use_cache=False, **inputs).loss
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def with_lora(model):
    torch.manual_seed(1)
    return peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    )


@pytest.mark.parametrize("wrap", [lambda model: model, with_lora], ids=["full", "lora"])
@pytest.mark.parametrize("name, implementation", FAMILY_ATTENTION)
def test_checkpointed_training_equals_stock(name, implementation, wrap):
    ids, mask = padded_batch()
    labels = ids.masked_fill(mask == 0, -100)
    loss, gradients = loss_and_gradients(
        wrap(stock_model(name, implementation)).train(), ids, labels, attention_mask=mask
    )
    model = wrap(tiny_model(name, VOCAB, 0, implementation)).train()
    prepare(model)
    model.gradient_checkpointing_enable({"use_reentrant": name != "gemma4"})
    model.enable_input_require_grads()
    our_loss, our_gradients = loss_and_gradients(model, ids, labels, **causal_inputs(model, *ids.shape))
    torch.testing.assert_close(our_loss, loss, atol=1e-5, rtol=1e-5)
    assert gradients
    torch.testing.assert_close(our_gradients, gradients, atol=1e-5, rtol=1e-4)


def test_keys_that_layers_share_lose_gradients_under_reentrant_checkpointing():
    """The reason why it is refused: stock Gemma 4 does so, whatever the mask."""
    ids, mask = padded_batch()
    labels = ids.masked_fill(mask == 0, -100)
    model = stock_model("gemma4", "sdpa").train()
    loss, gradients = loss_and_gradients(model, ids, labels, attention_mask=mask)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    same_loss, others = loss_and_gradients(model, ids, labels, attention_mask=mask)
    assert torch.equal(loss, same_loss)
    assert max((gradients[name] - others[name]).abs().max() for name in gradients) > 0.1


@pytest.mark.parametrize("name, implementation", ALIBI)
@torch.no_grad()
def test_stock_calls_stay_bit_identical(name, implementation, monkeypatch):
    put_back(monkeypatch)
    ids, mask = padded_batch()
    model = tiny_model(name, VOCAB, 0, implementation)
    before = [model(ids, attention_mask=attention_mask).logits for attention_mask in (mask, None)]
    prepare(model)
    after = [model(ids, attention_mask=attention_mask).logits for attention_mask in (mask, None)]
    assert all(torch.equal(ours, stock) for ours, stock in zip(after, before, strict=True))


@pytest.mark.parametrize("name", SEAMS)
def test_prepare_twice_is_prepare_once(name):
    model = our_model(name, "eager")
    installed = {seam: attrgetter(seam)(MODELING[name]) for seam in SEAMS[name]}
    prepare(model)
    assert installed == {seam: attrgetter(seam)(MODELING[name]) for seam in SEAMS[name]}


@pytest.mark.parametrize("name, seam", [(name, seam) for name, seams in SEAMS.items() for seam in seams])
def test_missing_seam_is_an_error(name, seam, monkeypatch):
    monkeypatch.setitem(SEAMS, name, {f"{seam}_renamed": SEAMS[name][seam]})
    with pytest.raises(RuntimeError, match=rf"modeling_{name}\.{seam}_renamed, which transformers .* lacks"):
        prepare(tiny_model(name, VOCAB, 0))


def test_rope_falcon_beside_alibi_falcon_keeps_its_mask_as_it_is():
    our_model("falcon", "sdpa")
    test_causal_mask_equals_stock_with_padding("falcon_rope", "sdpa")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_falcon_rounds_as_stock_does(dtype):
    """Twelve heads have slopes, and 400 tokens have places, that bfloat16 cannot hold."""
    ids = torch.randint(3, VOCAB, (1, 400), generator=torch.Generator().manual_seed(0))
    model = tiny_model("falcon", VOCAB, 0, hidden_size=96, num_attention_heads=12).to(dtype)
    prepare(model)
    assert torch.equal(model(ids, **causal_inputs(model, *ids.shape)).logits, model(ids).logits)


def test_slopes_are_the_published_ones():
    eight = 2.0 ** -torch.arange(1, 9)
    for name, heads in [("falcon", "num_attention_heads"), ("bloom", "n_head"), ("mpt", "n_heads")]:
        torch.testing.assert_close(alibi_slopes(tiny_config(name, VOCAB, **{heads: 8})), eight, atol=0, rtol=0)


def test_slopes_for_other_head_counts_follow_the_family():
    """Twelve heads: BLOOM and MPT extend the eight differently; Falcon is BLOOM in bfloat16."""
    bloom = 2.0 ** -torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5])
    mpt = 2.0 ** -torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5])
    for name, heads, slopes in [
        ("bloom", "n_head", bloom),
        ("falcon", "num_attention_heads", bloom.bfloat16().float()),
        ("mpt", "n_heads", mpt),
    ]:
        config = tiny_config(name, VOCAB, hidden_size=96, **{heads: 12})
        torch.testing.assert_close(alibi_slopes(config), slopes, atol=0, rtol=1e-6)


# Key 1 is hidden from the first row, which counts as if it were not there.
MAY_ATTEND = torch.tensor([[[[1, 0, 1, 0], [1, 1, 1, 1]]]], dtype=torch.bool)
RANK = torch.tensor([[[[0, 0, 1, 2], [0, 1, 2, 3]]]])
MIN = torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    "name, head_0",
    [
        ("llama", [[0.0, MIN, 0.0, MIN], [0.0, 0.0, 0.0, 0.0]]),
        ("bloom", [[0.0, MIN, 0.25, MIN], [0.0, 0.25, 0.5, 0.75]]),
        ("falcon", [[0.0, MIN, 0.0625, MIN], [0.0, 0.0625, 0.125, 0.1875]]),  # head_dim 16: divided by 4
        ("mpt", [[-0.25, MIN, 0.0, MIN], [-0.75, -0.5, -0.25, 0.0]]),
    ],
)
def test_golden_masks(name, head_0):
    config = tiny_config(name, VOCAB)
    mask = additive_mask(config, MAY_ATTEND, RANK, torch.float32)
    assert mask.shape == (1, 1 if name == "llama" else 4, 2, 4)
    assert mask[0, 0].tolist() == head_0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["llama", *SEAMS])
def test_mask_has_the_dtype_of_the_attention(name, dtype):
    mask = additive_mask(tiny_config(name, VOCAB), MAY_ATTEND, RANK, dtype)
    assert mask.dtype == dtype
    assert mask.isfinite().all()
    assert (mask[:, 0] == torch.finfo(dtype).min).equal(~MAY_ATTEND[:, 0])


def test_alibi_without_rank_is_our_own_mistake():
    with pytest.raises(AssertionError, match="bloom measures ALiBi distances and needs rank"):
        additive_mask(tiny_config("bloom", VOCAB), MAY_ATTEND, None, torch.float32)
