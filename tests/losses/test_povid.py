"""povid_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.povid import povid_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_golden_by_hand():
    """Log ratios 1 (chosen), -1 (rejected), -3 (noisy), beta 0.5, gamma 1/4: log losses of margins 1 and 2, mixed."""
    output = povid_loss(
        policy=POLICY,
        reference=REFERENCE,
        noisy_policy=torch.tensor([-18.0]),
        noisy_reference=torch.tensor([-15.0]),
        beta=0.5,
        gamma=0.25,
    )
    expected = 0.25 * math.log(1 + math.exp(-1)) + 0.75 * math.log(1 + math.exp(-2))
    torch.testing.assert_close(output.losses, torch.tensor([expected]))
    torch.testing.assert_close(output.rejected_rewards, torch.tensor([-0.5]))


def test_the_whole_share_on_the_written_answer_is_dpo():
    noisy = torch.tensor([-3.0])
    torch.testing.assert_close(
        povid_loss(
            policy=POLICY, reference=REFERENCE, noisy_policy=noisy, noisy_reference=noisy + 7, beta=0.5, gamma=1.0
        ).losses,
        dpo_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses,
    )


def test_gradient_lowers_the_noisy_tokens():
    noisy = torch.tensor([-20.0], requires_grad=True)
    povid_loss(
        policy=POLICY, reference=REFERENCE, noisy_policy=noisy, noisy_reference=noisy.detach(), beta=0.1
    ).losses.sum().backward()
    assert noisy.grad > 0
