"""ipo_loss against values worked out by hand."""

import torch

from mmalign.batch import PairLogps
from mmalign.losses.ipo import ipo_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Chosen moved +1 nat, rejected -1: margin 2. beta 0.5 asks for 1 / (2 * 0.5) = 1, so (2 - 1)^2 = 1."""
    output = ipo_loss(policy=POLICY, reference=REFERENCE, beta=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([1.0]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([0.5]))


def test_loss_at_the_reference_is_the_square_of_the_target():
    """1 / (2 * 0.1) = 5, squared 25."""
    output = ipo_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([25.0]))


def test_loss_is_least_at_the_target_margin_and_rises_beyond_it():
    """beta 0.25 asks for a margin of 2, which is there."""
    assert ipo_loss(policy=POLICY, reference=REFERENCE, beta=0.25).losses.item() == 0
    further = PairLogps(POLICY.chosen + 1, POLICY.rejected)
    assert ipo_loss(policy=further, reference=REFERENCE, beta=0.25).losses.item() == 1
