"""mdpo_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.mdpo import mdpo_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Log ratios 1 (chosen), -1 (rejected), -3 (other picture), beta 0.5, anchor 0.5: margins 1, 2 and 0.25."""
    output = mdpo_loss(
        policy=POLICY,
        reference=REFERENCE,
        other_image_policy=torch.tensor([-18.0]),
        other_image_reference=torch.tensor([-15.0]),
        beta=0.5,
        anchor=0.5,
    )
    expected = sum(math.log(1 + math.exp(-margin)) for margin in (1, 2, 0.25))
    torch.testing.assert_close(output.losses, torch.tensor([expected]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([0.5]))


def test_loss_is_thrice_log_two_at_the_reference():
    other = torch.tensor([-20.0])
    output = mdpo_loss(
        policy=REFERENCE, reference=REFERENCE, other_image_policy=other, other_image_reference=other, beta=0.1
    )
    torch.testing.assert_close(output.losses, torch.tensor([3 * math.log(2)]))


def test_gradient_lowers_the_answer_behind_the_other_picture():
    other = torch.tensor([-20.0], requires_grad=True)
    mdpo_loss(
        policy=POLICY, reference=REFERENCE, other_image_policy=other, other_image_reference=other.detach(), beta=0.1
    ).losses.sum().backward()
    assert other.grad > 0
