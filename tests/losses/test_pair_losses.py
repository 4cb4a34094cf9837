"""What all losses of pairs have in common: finite at any distance, rewards without gradient, pairs that stay apart."""

from functools import partial

import pytest
import torch

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.aot import aot_loss, aot_unpaired_loss
from mmalign.losses.apo import apo_down_loss, apo_zero_loss
from mmalign.losses.bco import bco_loss
from mmalign.losses.cpo import cpo_loss
from mmalign.losses.discopop import discopop_loss
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.exo import exo_loss
from mmalign.losses.hinge import hinge_loss
from mmalign.losses.ipo import ipo_loss
from mmalign.losses.mdpo import mdpo_loss
from mmalign.losses.mpo import mpo_loss
from mmalign.losses.nca import nca_loss
from mmalign.losses.orpo import orpo_loss
from mmalign.losses.povid import povid_loss
from mmalign.losses.robust import robust_loss
from mmalign.losses.simpo import simpo_loss
from mmalign.losses.sppo import sppo_hard_loss

BETA = 0.5


def cpo(policy: PairLogps, reference: PairLogps) -> PairLoss:
    """CPO with the chosen answer's likelihood as its NLL; there is no reference."""
    return cpo_loss(policy=policy, chosen_nll=-policy.chosen, beta=BETA)


def mdpo(policy: PairLogps, reference: PairLogps) -> PairLoss:
    """mDPO whose other picture makes no difference."""
    return mdpo_loss(
        policy=policy,
        reference=reference,
        other_image_policy=reference.chosen,
        other_image_reference=reference.chosen,
        beta=BETA,
    )


def povid(policy: PairLogps, reference: PairLogps) -> PairLoss:
    """POVID whose noisy answer is the rejected one."""
    return povid_loss(
        policy=policy,
        reference=reference,
        noisy_policy=policy.rejected,
        noisy_reference=reference.rejected,
        beta=BETA,
    )


LOSSES = {
    "apo_down": partial(apo_down_loss, beta=BETA),
    "apo_zero": partial(apo_zero_loss, beta=BETA),
    "bco": partial(bco_loss, beta=BETA, shift=0.3),
    "cpo": cpo,
    "discopop": partial(discopop_loss, beta=BETA),
    "dpo": partial(dpo_loss, beta=BETA, label_smoothing=0.1),
    "exo": partial(exo_loss, beta=BETA, label_smoothing=1e-3),
    "hinge": partial(hinge_loss, beta=BETA),
    "ipo": partial(ipo_loss, beta=BETA),
    "mdpo": mdpo,
    "mpo": lambda policy, reference: mpo_loss(
        policy=policy, reference=reference, chosen_nll=-policy.chosen, beta=BETA, shift=0.3
    ),
    "nca": partial(nca_loss, beta=BETA),
    "orpo": lambda policy, reference: orpo_loss(policy=policy, beta=BETA),
    "povid": povid,
    "robust": partial(robust_loss, beta=BETA, label_smoothing=0.1),
    "simpo": lambda policy, reference: simpo_loss(policy=policy, beta=BETA, gamma=0.3),
    "sppo_hard": partial(sppo_hard_loss, beta=BETA),
}
OVER_THE_BATCH = {
    "aot": partial(aot_loss, beta=BETA),
    "aot_unpaired": partial(aot_unpaired_loss, beta=BETA),
}
WITHOUT_REFERENCE = {"cpo", "orpo", "simpo"}
every_loss = pytest.mark.parametrize("name", [*LOSSES, *OVER_THE_BATCH])


def random_pairs(number: int, requires_grad: bool = False) -> PairLogps:
    return PairLogps(*(torch.empty(number).uniform_(-4, -1).requires_grad_(requires_grad) for _ in range(2)))


@every_loss
def test_finite_with_finite_gradient_a_thousand_nats_from_the_reference(name):
    loss = (LOSSES | OVER_THE_BATCH)[name]
    chosen = torch.tensor([-1e-9, -1000.0, -1e-9, -1000.0, -0.0], requires_grad=True)
    rejected = torch.tensor([-1000.0, -1e-9, -1e-9, -1000.0, -0.0], requires_grad=True)
    reference = PairLogps(
        torch.tensor([-1000.0, -0.0, -0.0, -0.0, -0.0]), torch.tensor([-0.0, -1000.0, -0.0, -0.0, -0.0])
    )

    output = loss(policy=PairLogps(chosen, rejected), reference=reference)
    output.losses.sum().backward()

    assert output.losses.isfinite().all()
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()


@every_loss
def test_rewards_are_beta_times_the_log_ratio_without_gradient(name):
    torch.manual_seed(0)
    policy, reference = random_pairs(4, requires_grad=True), random_pairs(4)
    output = (LOSSES | OVER_THE_BATCH)[name](policy=policy, reference=reference)

    base = PairLogps(torch.zeros(4), torch.zeros(4)) if name in WITHOUT_REFERENCE else reference
    torch.testing.assert_close(output.chosen_rewards, BETA * (policy.chosen - base.chosen).detach())
    torch.testing.assert_close(output.rejected_rewards, BETA * (policy.rejected - base.rejected).detach())
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad
    assert output.losses.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_each_pair_has_its_loss_whatever_stands_beside_it(name):
    torch.manual_seed(1)
    policy, reference = random_pairs(5), random_pairs(5)
    together = LOSSES[name](policy=policy, reference=reference).losses
    for i in range(5):
        alone = LOSSES[name](
            policy=PairLogps(*(x[i : i + 1] for x in policy)), reference=PairLogps(*(x[i : i + 1] for x in reference))
        )
        torch.testing.assert_close(alone.losses, together[i : i + 1])


@pytest.mark.parametrize("name", OVER_THE_BATCH)
def test_losses_over_the_batch_do_not_depend_on_its_order(name):
    torch.manual_seed(2)
    policy, reference = random_pairs(5), random_pairs(5)
    order = torch.randperm(5)
    shuffled = [PairLogps(*(x[order] for x in pairs)) for pairs in (policy, reference)]
    torch.testing.assert_close(
        OVER_THE_BATCH[name](policy=shuffled[0], reference=shuffled[1]).losses,
        OVER_THE_BATCH[name](policy=policy, reference=reference).losses,
    )


@pytest.mark.parametrize("name", sorted({*LOSSES, *OVER_THE_BATCH} - {"apo_down"}))
def test_gradient_raises_chosen_and_lowers_rejected_near_the_reference(name):
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    reference = PairLogps(torch.tensor([-3.2]), torch.tensor([-2.8]))
    (LOSSES | OVER_THE_BATCH)[name](policy=PairLogps(chosen, rejected), reference=reference).losses.sum().backward()
    assert chosen.grad < 0 < rejected.grad


@pytest.mark.parametrize("name", sorted({*LOSSES, *OVER_THE_BATCH} - WITHOUT_REFERENCE - {"mpo"}))
def test_only_the_distance_to_the_reference_counts(name):
    torch.manual_seed(3)
    policy, reference = random_pairs(4), random_pairs(4)
    nearer = [PairLogps(*(x + 1.5 for x in pairs)) for pairs in (policy, reference)]
    loss = (LOSSES | OVER_THE_BATCH)[name]
    torch.testing.assert_close(
        loss(policy=nearer[0], reference=nearer[1]).losses, loss(policy=policy, reference=reference).losses
    )
