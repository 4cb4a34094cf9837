"""hinge_loss against values worked out by hand."""

import torch

from mmalign.batch import PairLogps
from mmalign.losses.hinge import hinge_loss

POLICY = PairLogps(torch.tensor([-10.0], requires_grad=True), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Chosen moved +1 nat, rejected -1: margin 0.25 * 2 = 0.5, half a unit short of 1."""
    output = hinge_loss(policy=POLICY, reference=REFERENCE, beta=0.25)
    torch.testing.assert_close(output.losses, torch.tensor([0.5]))


def test_loss_is_one_at_the_reference():
    assert hinge_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1).losses.item() == 1


def test_a_pair_beyond_the_margin_teaches_nothing():
    """beta 2: the margin is 4, past 1."""
    output = hinge_loss(policy=POLICY, reference=REFERENCE, beta=2.0)
    output.losses.sum().backward()
    assert output.losses.item() == 0
    assert POLICY.chosen.grad.item() == 0
