"""exo_loss against values worked out by hand."""

import math

import pytest
import torch

from mmalign.batch import PairLogps
from mmalign.losses.exo import exo_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))
BETA = math.log(3) / 2
"""The two nats between the answers become a margin of log 3, and q is (3/4, 1/4)."""


def test_golden_by_hand():
    """eps 1/8: KL((3/4, 1/4) || (7/8, 1/8)) = 3/4 log(6/7) + 1/4 log 2."""
    output = exo_loss(policy=POLICY, reference=REFERENCE, beta=BETA, label_smoothing=1 / 8)
    torch.testing.assert_close(output.losses, torch.tensor([0.75 * math.log(6 / 7) + 0.25 * math.log(2)]))


def test_loss_at_the_reference():
    """q is (1/2, 1/2): -log 2 - 1/2 log(eps (1 - eps))."""
    output = exo_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1, label_smoothing=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([-math.log(2) - 0.5 * math.log(0.09)]))


def test_loss_is_zero_where_the_policy_doubts_as_much_as_the_labels():
    output = exo_loss(policy=POLICY, reference=REFERENCE, beta=BETA, label_smoothing=0.25)
    torch.testing.assert_close(output.losses, torch.tensor([0.0]), atol=1e-7, rtol=0)


def test_loss_of_a_pair_the_wrong_way_round_is_at_most_minus_log_eps():
    policy = PairLogps(torch.tensor([-1000.0]), torch.tensor([0.0]))
    output = exo_loss(policy=policy, reference=REFERENCE, beta=1.0, label_smoothing=1e-3)
    torch.testing.assert_close(output.losses, torch.tensor([-math.log(1e-3)]))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.5])
def test_labels_without_doubt_are_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"Set it in \(0, 0.5\)"):
        exo_loss(policy=POLICY, reference=REFERENCE, beta=0.5, label_smoothing=label_smoothing)
