"""kto_loss and its baseline against values worked out by hand."""

import math

import pytest
import torch

from mmalign.losses.kto import kto_baseline, kto_loss

LOG_RATIOS = torch.tensor([3.0, -1.0])
DESIRABLE = torch.tensor([True, False])


def test_golden_by_hand():
    """Seen from a baseline of 1 both answers are 2 nats on the right side; beta 0.5: 1 - sigmoid(1), once and twice."""
    output = kto_loss(
        log_ratios=LOG_RATIOS, desirable=DESIRABLE, baseline=torch.tensor(1.0), beta=0.5, undesirable_weight=2.0
    )
    loss = 1 / (1 + math.e)
    torch.testing.assert_close(output.losses, torch.tensor([loss, 2 * loss]))
    torch.testing.assert_close(output.rewards, torch.tensor([1.5, -0.5]))


def test_loss_at_the_baseline_is_half_the_weight():
    output = kto_loss(
        log_ratios=torch.ones(2), desirable=DESIRABLE, baseline=torch.tensor(1.0), beta=0.1, desirable_weight=3.0
    )
    torch.testing.assert_close(output.losses, torch.tensor([1.5, 0.5]))


def test_gradient_raises_good_and_lowers_bad_answers():
    log_ratios = torch.zeros(2, requires_grad=True)
    output = kto_loss(log_ratios=log_ratios, desirable=DESIRABLE, baseline=torch.tensor(0.0), beta=0.1)
    output.losses.sum().backward()
    assert log_ratios.grad[0] < 0 < log_ratios.grad[1]
    assert not output.rewards.requires_grad


def test_finite_with_finite_gradient_a_thousand_nats_away():
    log_ratios = torch.tensor([1000.0, -1000.0, 1000.0, -1000.0], requires_grad=True)
    desirable = torch.tensor([True, True, False, False])
    output = kto_loss(log_ratios=log_ratios, desirable=desirable, baseline=torch.tensor(0.0), beta=1.0)
    output.losses.sum().backward()
    torch.testing.assert_close(output.losses, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert log_ratios.grad.isfinite().all()


@pytest.mark.parametrize(
    ("log_ratios", "expected"),
    [([3.0, -1.0], 1.0), ([-3.0, 1.0], 0.0), ([], 0.0)],
    ids=["mean", "never below 0", "none"],
)
def test_baseline_golden_by_hand(log_ratios, expected):
    """(3 - 1) / 2 = 1; (-3 + 1) / 2 = -1 is raised to 0; the clamp comes after the mean, not before."""
    assert kto_baseline(torch.tensor(log_ratios)).item() == expected


def test_baseline_carries_no_gradient():
    assert not kto_baseline(torch.ones(2, requires_grad=True)).requires_grad
