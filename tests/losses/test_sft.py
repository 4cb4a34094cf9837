"""sft_loss against values worked out by hand."""

import torch

from mmalign.batch import Logps
from mmalign.losses.sft import sft_loss

POLICY = Logps(sums=torch.tensor([-6.0, -1.0, -9.0]), lengths=torch.tensor([3.0, 1.0, 2.0]))


def test_golden_by_hand():
    """6 + 1 nats on 3 + 1 tokens; the third response is a hole's."""
    output = sft_loss(policy=POLICY, weights=torch.tensor([1.0, 1.0, 0.0]))
    assert output.total.item() == 7
    assert output.tokens.item() == 4


def test_totals_of_parts_make_the_mean_of_the_whole_and_means_do_not():
    """Whole: 16 nats on 6 tokens. Parts: 6 on 3 and 10 on 3, or 6 on 3, 1 on 1, 9 on 2, whose means average to 2.5."""
    whole = sft_loss(policy=POLICY, weights=torch.ones(3))
    parts = [sft_loss(policy=Logps(*(x[i : i + 1] for x in POLICY)), weights=torch.ones(1)) for i in range(3)]
    torch.testing.assert_close(
        sum(part.total for part in parts) / sum(part.tokens for part in parts), whole.total / whole.tokens
    )
    assert whole.total / whole.tokens != sum(part.total / part.tokens for part in parts) / 3


def test_gradient_raises_every_learned_response_alike():
    sums = POLICY.sums.clone().requires_grad_()
    output = sft_loss(policy=Logps(sums, POLICY.lengths), weights=torch.tensor([1.0, 1.0, 0.0]))
    output.total.backward()
    assert sums.grad.tolist() == [-1, -1, 0]
    assert not output.tokens.requires_grad
