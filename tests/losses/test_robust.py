"""robust_loss against values worked out by hand and the property the paper is about."""

import math

import pytest
import torch

from mmalign.batch import PairLogps
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.robust import robust_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Margin 0.5 * 2 = 1, eps 1/4: (3/4 log(1 + e^-1) - 1/4 log(1 + e)) / (1/2) = -0.1867."""
    output = robust_loss(policy=POLICY, reference=REFERENCE, beta=0.5, label_smoothing=0.25)
    expected = 1.5 * math.log(1 + math.exp(-1)) - 0.5 * math.log(1 + math.e)
    torch.testing.assert_close(output.losses, torch.tensor([expected]))
    assert expected == pytest.approx(-0.1867, abs=1e-4)


def test_loss_is_log_two_at_the_reference_whatever_the_noise():
    output = robust_loss(policy=REFERENCE, reference=REFERENCE, beta=0.1, label_smoothing=0.3)
    torch.testing.assert_close(output.losses, torch.tensor([math.log(2)]))


def test_without_noise_it_is_dpo():
    torch.testing.assert_close(
        robust_loss(policy=POLICY, reference=REFERENCE, beta=0.5, label_smoothing=0.0).losses,
        dpo_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses,
    )


def test_its_mean_over_flipped_labels_is_dpo_on_clean_ones():
    eps = 0.2
    right = robust_loss(policy=POLICY, reference=REFERENCE, beta=0.5, label_smoothing=eps).losses
    flipped = [PairLogps(pairs.rejected, pairs.chosen) for pairs in (POLICY, REFERENCE)]
    wrong = robust_loss(policy=flipped[0], reference=flipped[1], beta=0.5, label_smoothing=eps).losses
    torch.testing.assert_close(
        (1 - eps) * right + eps * wrong, dpo_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses
    )


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, 0.7])
def test_a_chance_outside_the_range_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"Set it in \[0, 0.5\)"):
        robust_loss(policy=POLICY, reference=REFERENCE, beta=0.5, label_smoothing=label_smoothing)
