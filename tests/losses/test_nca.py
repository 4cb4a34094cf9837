"""nca_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.nca import nca_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Rewards 0.5 and -0.5: log(1 + e^-0.5) + 1/2 log(1 + e^0.5) + 1/2 log(1 + e^-0.5)."""
    output = nca_loss(policy=POLICY, reference=REFERENCE, beta=0.5)
    expected = 1.5 * math.log(1 + math.exp(-0.5)) + 0.5 * math.log(1 + math.exp(0.5))
    torch.testing.assert_close(output.losses, torch.tensor([expected]))


def test_loss_is_twice_log_two_at_the_reference():
    output = nca_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([2 * math.log(2)]))


def test_a_chosen_answer_made_too_likely_is_pulled_back():
    """Slope by the chosen reward r: -sigmoid(-r) + 1/2 sigmoid(r), above 0 once sigmoid(r) > 2/3."""
    chosen = torch.tensor([-10.0], requires_grad=True)
    nca_loss(policy=PairLogps(chosen, POLICY.rejected), reference=REFERENCE, beta=1.0).losses.sum().backward()
    assert chosen.grad > 0  # r = 1, sigmoid 0.73
