"""sppo_hard_loss against values worked out by hand."""

import torch

from mmalign.batch import PairLogps
from mmalign.losses.sppo import sppo_hard_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Log ratios 1 and -1; beta 0.25 asks for 2 and -2: (1 - 2)^2 + (-1 + 2)^2 = 2."""
    output = sppo_hard_loss(policy=POLICY, reference=REFERENCE, beta=0.25)
    torch.testing.assert_close(output.losses, torch.tensor([2.0]))
    torch.testing.assert_close(output.rejected_rewards, torch.tensor([-0.25]))


def test_loss_at_the_reference_is_twice_the_square_of_the_target():
    """2 * (1 / (2 * 0.1))^2 = 50."""
    output = sppo_hard_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([50.0]))


def test_loss_is_zero_where_both_answers_moved_as_asked():
    assert sppo_hard_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses.item() == 0
