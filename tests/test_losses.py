"""The loss of `interleaved`: cross entropy, a weight for two tokens, and rows that only say which token is wrong."""

import math

import pytest
import torch
from torch.nn import functional as F

from simulmask_plugin.layouts.chunks import NOT_READ_END
from simulmask_plugin.training.losses import interleaved_loss

READ_END, WRITE_END, VOCAB = 7, 8, 9


def loss_of(logits, labels, weight=1.0, num_items=None):
    return interleaved_loss(logits, labels, read_end=READ_END, write_end=WRITE_END, weight=weight, num_items=num_items)


def random_logits(*shape, scale=3.0):
    return scale * torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(0))


def one_row(logits, label, **options):
    """The loss of a single row that predicts."""
    rows = torch.stack([logits, torch.zeros(VOCAB)])[None]
    return loss_of(rows, torch.tensor([[-100, label]]), **options)


LABELS = torch.tensor([[-100, -100, 3, READ_END, 5, 0, WRITE_END], [-100, 1, -100, 2, READ_END, -100, -100]])


def test_without_weight_it_is_cross_entropy():
    logits = random_logits(2, 7)
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), LABELS[:, 1:].reshape(-1), ignore_index=-100)
    torch.testing.assert_close(loss_of(logits, LABELS), expected)


def test_without_weight_its_gradient_is_that_of_cross_entropy():
    one, two = (random_logits(2, 7).requires_grad_() for _ in range(2))
    loss_of(one, LABELS).backward()
    F.cross_entropy(two[:, :-1].reshape(-1, VOCAB), LABELS[:, 1:].reshape(-1)).backward()
    torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("label, times", [(3, 1), (READ_END, 4), (WRITE_END, 4), (NOT_READ_END, 4)])
def test_weight_is_for_the_special_tokens_and_what_is_no_read_end(label, times):
    logits = random_logits()
    torch.testing.assert_close(one_row(logits, label, weight=4.0), times * one_row(logits, label))


def test_mean_counts_every_labelled_row_once_whatever_its_weight():
    logits, labels = random_logits(1, 4), torch.tensor([[-100, 3, READ_END, NOT_READ_END]])
    log_p = logits[0].log_softmax(-1)
    other = (1 - log_p[2, READ_END].exp()).log()
    expected = -(log_p[0, 3] + 2 * log_p[1, READ_END] + 2 * other) / 3
    torch.testing.assert_close(loss_of(logits, labels, weight=2.0), expected)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_source_that_goes_on_costs_the_probability_of_the_read_end(p):
    logits = torch.full((VOCAB,), (1 - p) / (VOCAB - 1)).log()
    logits[READ_END] = torch.tensor(p).log()
    torch.testing.assert_close(one_row(logits, NOT_READ_END), -torch.tensor(1 - p).log())


def test_source_that_goes_on_does_not_say_with_which_token():
    """Whichever of the others takes the probability: the loss is the same."""
    logits = torch.zeros(VOCAB)
    logits[READ_END] = 2.0
    swapped = logits.clone()
    logits[1], swapped[4] = 3.0, 3.0
    torch.testing.assert_close(one_row(logits, NOT_READ_END), one_row(swapped, NOT_READ_END))


@pytest.mark.parametrize("logit, loss, slope", [(200.0, 200.0, 1.0), (-200.0, 0.0, 0.0), (20.0, 20.0, 1.0)])
def test_certainty_has_a_finite_loss_and_gradient(logit, loss, slope):
    """P is 1 or 0 to rounding; where the model is sure and wrong, the gradient is that of any wrong label."""
    logits = torch.zeros(VOCAB)
    logits[READ_END] = logit
    logits.requires_grad_()
    cost = one_row(logits, NOT_READ_END)
    cost.backward()
    at_zero = math.log(VOCAB - 1) if logit > 0 else 0.0  # what the others have together
    assert cost.item() == pytest.approx(loss - at_zero, abs=1e-4)
    assert logits.grad.isfinite().all()
    assert logits.grad[READ_END].item() == pytest.approx(slope, abs=1e-4)


def test_half_precision_is_computed_in_full():
    logits = random_logits(2, 7)
    assert loss_of(logits.bfloat16(), LABELS).dtype == torch.float32
    torch.testing.assert_close(loss_of(logits.bfloat16(), LABELS), loss_of(logits.bfloat16().float(), LABELS))


@pytest.mark.parametrize("num_items", [5, torch.tensor(20)])
def test_num_items_of_the_step_replace_the_rows_of_the_batch(num_items):
    logits = random_logits(2, 7)
    rows = (LABELS[:, 1:] != -100).sum()
    torch.testing.assert_close(loss_of(logits, LABELS, num_items=num_items) * num_items, loss_of(logits, LABELS) * rows)


def test_accumulated_batches_add_up_to_the_whole():
    logits, labels = random_logits(2, 7), LABELS.clone()
    labels[1, 3] = NOT_READ_END
    rows = int((labels[:, 1:] != -100).sum())
    parts = [loss_of(logits[i : i + 1], labels[i : i + 1], weight=3.0, num_items=rows) for i in range(2)]
    torch.testing.assert_close(sum(parts), loss_of(logits, labels, weight=3.0))


def test_a_batch_without_labels_costs_nothing():
    logits = random_logits(1, 3).requires_grad_()
    cost = loss_of(logits, torch.full((1, 3), -100))
    cost.backward()
    assert cost.item() == 0
    assert not logits.grad.any()
