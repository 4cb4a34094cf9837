"""discopop_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.discopop import discopop_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Margin 0.5 * 2 = 1, tau 0.5: the mix is sigmoid(2) of e^-1, and the rest of log(1 + e^-1)."""
    output = discopop_loss(policy=POLICY, reference=REFERENCE, beta=0.5, tau=0.5)
    mix = 1 / (1 + math.exp(-2))
    expected = (1 - mix) * math.log(1 + math.exp(-1)) + mix * math.exp(-1)
    torch.testing.assert_close(output.losses, torch.tensor([expected]))


def test_loss_at_the_reference_is_half_of_each():
    """(log 2 + 1) / 2."""
    output = discopop_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([(math.log(2) + 1) / 2]))


def test_far_from_the_reference_it_is_exponential_above_and_logistic_below():
    above = discopop_loss(policy=POLICY, reference=REFERENCE, beta=1.0)
    torch.testing.assert_close(above.losses, torch.tensor([math.exp(-2)]))
    below = discopop_loss(policy=REFERENCE, reference=POLICY, beta=1.0)
    torch.testing.assert_close(below.losses, torch.tensor([math.log(1 + math.exp(2))]))


def test_at_the_reference_the_loss_rises_with_the_margin():
    """Slope by the margin: mix' (1 - log 2) - 1/4 - 1/2, mix' = 1 / (4 tau) = 5. By the chosen answer, times beta."""
    chosen = REFERENCE.chosen.clone().requires_grad_()
    discopop_loss(policy=PairLogps(chosen, REFERENCE.rejected), reference=REFERENCE, beta=0.1).losses.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([0.1 * (5 * (1 - math.log(2)) - 0.75)]))
