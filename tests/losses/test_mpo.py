"""mpo_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.bco import bco_loss
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.mpo import mpo_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))
NLL = torch.tensor([2.0])


def test_golden_by_hand():
    """Rewards 0.5 and -0.5, shift 0.25: 0.8 log(1 + e^-1) + 0.2 (log(1 + e^-0.25) + log(1 + e^-0.75)) + 2."""
    output = mpo_loss(policy=POLICY, reference=REFERENCE, chosen_nll=NLL, beta=0.5, shift=torch.tensor(0.25))
    bco = math.log(1 + math.exp(-0.25)) + math.log(1 + math.exp(-0.75))
    torch.testing.assert_close(output.losses, torch.tensor([0.8 * math.log(1 + math.exp(-1)) + 0.2 * bco + 2]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([0.5]))
    torch.testing.assert_close(output.rejected_rewards, torch.tensor([-0.5]))


def test_each_weight_scales_its_own_term():
    def losses(dpo_weight, bco_weight, nll_weight):
        return mpo_loss(
            policy=POLICY,
            reference=REFERENCE,
            chosen_nll=NLL,
            beta=0.5,
            shift=0.1,
            dpo_weight=dpo_weight,
            bco_weight=bco_weight,
            nll_weight=nll_weight,
        ).losses

    torch.testing.assert_close(losses(3.0, 0.0, 0.0), 3 * dpo_loss(policy=POLICY, reference=REFERENCE, beta=0.5).losses)
    torch.testing.assert_close(
        losses(0.0, 3.0, 0.0), 3 * bco_loss(policy=POLICY, reference=REFERENCE, beta=0.5, shift=0.1).losses
    )
    torch.testing.assert_close(losses(0.0, 0.0, 3.0), 3 * NLL)
