"""aot_loss and aot_unpaired_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.aot import aot_loss, aot_unpaired_loss
from mmalign.losses.dpo import dpo_loss

POLICY = PairLogps(torch.tensor([-10.0, -10.0]), torch.tensor([-14.0, -11.0]))
REFERENCE = PairLogps(torch.tensor([-11.0, -10.0]), torch.tensor([-13.0, -13.0]))
SHORT, AHEAD = math.log(1 + math.e), math.log(1 + math.exp(-1))
"""Logistic loss of a quantile one unit short of the other, and one unit ahead."""


def test_paired_golden_by_hand():
    """Margins 4, 1 of the policy and 2, 3 of the reference; sorted 1, 4 over 2, 3: -1 and +1."""
    output = aot_loss(policy=POLICY, reference=REFERENCE, beta=1.0)
    torch.testing.assert_close(output.losses, torch.tensor([SHORT, AHEAD]))


def test_unpaired_golden_by_hand():
    """Log ratios 1, 0 of the chosen and -1, 2 of the rejected; sorted 0, 1 over -1, 2: +1 and -1."""
    output = aot_unpaired_loss(policy=POLICY, reference=REFERENCE, beta=1.0)
    torch.testing.assert_close(output.losses, torch.tensor([AHEAD, SHORT]))


def test_rewards_stay_with_their_pairs():
    output = aot_unpaired_loss(policy=POLICY, reference=REFERENCE, beta=1.0)
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(output.rejected_rewards, torch.tensor([-1.0, 2.0]))


def test_of_a_single_pair_both_are_dpo():
    pairs = [PairLogps(*(x[:1] for x in records)) for records in (POLICY, REFERENCE)]
    expected = dpo_loss(policy=pairs[0], reference=pairs[1], beta=0.5, label_smoothing=0.1).losses
    for loss in (aot_loss, aot_unpaired_loss):
        output = loss(policy=pairs[0], reference=pairs[1], beta=0.5, label_smoothing=0.1)
        torch.testing.assert_close(output.losses, expected)
