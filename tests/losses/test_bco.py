"""bco_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.bco import bco_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Rewards 0.5 and -0.5, shift 0.25: the chosen one lies 0.25 above it, the rejected one 0.75 below."""
    output = bco_loss(policy=POLICY, reference=REFERENCE, beta=0.5, shift=torch.tensor(0.25))
    expected = math.log(1 + math.exp(-0.25)) + math.log(1 + math.exp(-0.75))
    torch.testing.assert_close(output.losses, torch.tensor([expected]))


def test_loss_is_twice_log_two_at_the_reference():
    output = bco_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([2 * math.log(2)]))


def test_shift_moves_both_rewards():
    """Both rewards raised by 0.25 (0.5 nats at beta 0.5) behind a shift of 0.25 are where they were."""
    raised = PairLogps(POLICY.chosen + 0.5, POLICY.rejected + 0.5)
    torch.testing.assert_close(
        bco_loss(policy=raised, reference=REFERENCE, beta=0.5, shift=0.25).losses,
        bco_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses,
    )
