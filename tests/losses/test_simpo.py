"""simpo_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.simpo import simpo_loss


def test_golden_by_hand():
    """Means -1 and -2 at beta 2: rewards -2 and -4, 2 apart, 1.5 past gamma."""
    output = simpo_loss(policy=PairLogps(torch.tensor([-1.0]), torch.tensor([-2.0])), beta=2.0, gamma=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([math.log(1 + math.exp(-1.5))]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([-2.0]))
    torch.testing.assert_close(output.rejected_rewards, torch.tensor([-4.0]))


def test_equal_answers_are_gamma_short():
    same = torch.tensor([-1.5])
    output = simpo_loss(policy=PairLogps(same, same), beta=2.0, gamma=1.0)
    torch.testing.assert_close(output.losses, torch.tensor([math.log(1 + math.e)]))
