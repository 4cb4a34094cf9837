"""cpo_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.cpo import cpo_loss
from mmalign.losses.dpo import dpo_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-12.0]))


def test_golden_by_hand():
    """Margin 0.5 * 2 = 1; half of an NLL of 2 nats a token."""
    output = cpo_loss(policy=POLICY, chosen_nll=torch.tensor([2.0]), beta=0.5, nll_weight=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([math.log(1 + math.exp(-1)) + 1]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([-5.0]))


def test_without_the_likelihood_it_is_dpo_with_a_uniform_reference():
    uniform = PairLogps(torch.tensor([-7.0]), torch.tensor([-7.0]))
    torch.testing.assert_close(
        cpo_loss(policy=POLICY, chosen_nll=torch.tensor([2.0]), beta=0.5, nll_weight=0.0).losses,
        dpo_loss(policy=POLICY, reference=uniform, beta=0.5).losses,
    )
