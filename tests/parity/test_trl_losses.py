"""Our losses equal TRL's own code on random log-probabilities: 15 DPO losses and their mixes, KTO, CPO, SimPO, ORPO.

TRL computes its losses inside the trainers, behind a forward pass. Here the trainers' own methods run on a stand-in for
the trainer, which holds its settings, and on a stand-in for the model, which answers with given log-probabilities; no
line of TRL is copied. (`test_trl_dpo.py` compares one loss through both trainers whole.)

Known differences, tested against the formula:
    bco_pair    TRL has no shift: equal at shift 0
    ipo         TRL takes per-token means: equal on means; on sums it is the paper's Eq. 17
    sft         TRL takes one mean over the batch's tokens: equal to `sft_loss`, total over tokens; MPO, CPO and ORPO
                here take a mean per answer, equal where all answers are equally long
    ORPO        TRL's NLL term counts the prompt's tokens too; the odds-ratio term is equal
    MRPO        not in TRL; `tests/losses/test_mrpo.py` has the authors' arithmetic
"""

from collections import defaultdict
from functools import partial
from types import MethodType, SimpleNamespace

import pytest
import torch

from mmalign.batch import Logps, PairLogps
from mmalign.losses.aot import aot_loss, aot_unpaired_loss
from mmalign.losses.apo import apo_down_loss, apo_zero_loss
from mmalign.losses.bco import bco_loss
from mmalign.losses.cpo import cpo_loss
from mmalign.losses.discopop import discopop_loss
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.exo import exo_loss
from mmalign.losses.hinge import hinge_loss
from mmalign.losses.ipo import ipo_loss
from mmalign.losses.kto import kto_baseline, kto_loss
from mmalign.losses.mpo import mpo_loss
from mmalign.losses.nca import nca_loss
from mmalign.losses.orpo import orpo_loss
from mmalign.losses.robust import robust_loss
from mmalign.losses.sft import sft_loss
from mmalign.losses.simpo import simpo_loss
from mmalign.losses.sppo import sppo_hard_loss

trl = pytest.importorskip("trl")

BETA = 0.3
SMOOTHING = 0.1
PAIRS, TOKENS = 6, 9

SUMS = {
    "sigmoid": dpo_loss,
    "hinge": hinge_loss,
    "exo_pair": partial(exo_loss, label_smoothing=SMOOTHING),
    "nca_pair": nca_loss,
    "robust": partial(robust_loss, label_smoothing=SMOOTHING),
    "bco_pair": bco_loss,
    "sppo_hard": sppo_hard_loss,
    "aot": partial(aot_loss, label_smoothing=SMOOTHING),
    "aot_unpaired": partial(aot_unpaired_loss, label_smoothing=SMOOTHING),
    "apo_zero": apo_zero_loss,
    "apo_down": apo_down_loss,
    "discopop": discopop_loss,
}
"""TRL's losses of summed log-probabilities."""
MEANS = {"ipo": ipo_loss, "sigmoid_norm": dpo_loss}
"""TRL's losses of per-token means."""


class Answers:
    """Random answers of unequal length behind a prompt, as a model scores them: their tokens, under two models."""

    def __init__(self, number: int, *, equal_lengths: bool = False, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(2, TOKENS, (number,), generator=generator)
        self.lengths = torch.full_like(lengths, 4) if equal_lengths else lengths
        self.completion_mask = (torch.arange(TOKENS) >= TOKENS - self.lengths[:, None]).long()
        self.scored = self.completion_mask[:, 1:]
        self.leaf = (-2 * torch.rand(self.scored.shape, generator=generator)).requires_grad_()
        self.reference = -2 * torch.rand(self.scored.shape, generator=generator) * self.scored
        self.input_ids = torch.randint(3, 90, (number, TOKENS), generator=generator)

    @property
    def policy(self) -> torch.Tensor:
        """Log-probability of each token, 0 where it is the prompt's."""
        return self.leaf * self.scored

    def model(self, **_: object) -> SimpleNamespace:
        """What TRL's fused head returns for these answers."""
        zeros = torch.zeros_like(self.policy)
        return SimpleNamespace(log_probs=self.policy, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What TRL's collator makes of them, reference log-probabilities apart."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": torch.ones_like(self.input_ids),
            "completion_mask": self.completion_mask,
        }

    def pairs(self, *, means: bool = False) -> tuple[PairLogps, PairLogps]:
        """Policy and reference as our records: first all chosen, then all rejected, as in TRL's batch."""
        per = self.lengths if means else torch.ones_like(self.lengths)
        policy, reference = (PairLogps(*(x.sum(1) / per).chunk(2)) for x in (self.policy, self.reference))
        return policy, reference

    @property
    def chosen_nll(self) -> torch.Tensor:
        """Per-token mean of each chosen answer."""
        return -self.pairs(means=True)[0].chosen


def trainer(**settings: object) -> SimpleNamespace:
    """What TRL's loss methods read of their trainer, on one process."""
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        beta=BETA,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def trl_dpo(answers: Answers, loss_types: list[str], loss_weights: list[float] | None = None) -> torch.Tensor:
    """The loss of `DPOTrainer` for these answers."""
    reference = answers.pairs()[1]
    return trl.DPOTrainer._compute_loss(
        trainer(
            loss_types=loss_types,
            loss_weights=loss_weights or [1.0] * len(loss_types),
            label_smoothing=SMOOTHING,
            ld_alpha=None,
            f_divergence_type="reverse_kl",
            use_weighting=False,
            args=SimpleNamespace(discopop_tau=0.05),
        ),
        answers.model,
        answers.inputs | {"ref_chosen_logps": reference.chosen, "ref_rejected_logps": reference.rejected},
        return_outputs=False,
    )


def assert_equal_with_gradient(ours: torch.Tensor, theirs: torch.Tensor, leaf: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs)]
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_every_dpo_loss_of_this_trl_is_compared():
    """The list TRL prints for a loss it does not know."""
    with pytest.raises(ValueError, match="Unknown loss type") as error:
        trl_dpo(Answers(2 * PAIRS), ["no such loss"])
    known = str(error.value).split("[")[1]
    assert {name.strip(" ']") for name in known.split(",")} == {*SUMS, *MEANS, "sft"}
    assert len({*SUMS, *MEANS, "sft"}) == 15


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*SUMS, *MEANS])
def test_dpo_loss(name, seed):
    answers = Answers(2 * PAIRS, seed=seed)
    policy, reference = answers.pairs(means=name in MEANS)
    ours = (SUMS | MEANS)[name](policy=policy, reference=reference, beta=BETA).losses.mean()
    assert_equal_with_gradient(ours, trl_dpo(answers, [name]), answers.leaf)


def test_sft_term_is_the_token_mean_of_the_batch():
    answers = Answers(2 * PAIRS)
    chosen = Logps(answers.policy.sum(1)[:PAIRS], answers.lengths[:PAIRS].float())
    ours = sft_loss(policy=chosen, weights=torch.ones(PAIRS))
    assert_equal_with_gradient(ours.total / ours.tokens, trl_dpo(answers, ["sft"]), answers.leaf)


def test_conservative_dpo_is_the_smoothed_aot_of_a_single_pair():
    """TRL's `sigmoid` ignores label smoothing; its `aot` of one pair is DPO with it."""
    answers = Answers(2)
    policy, reference = answers.pairs()
    ours = dpo_loss(policy=policy, reference=reference, beta=BETA, label_smoothing=SMOOTHING).losses.mean()
    assert_equal_with_gradient(ours, trl_dpo(answers, ["aot"]), answers.leaf)


def test_mpo_is_trls_weighted_mix_at_shift_zero_where_answers_are_equally_long():
    answers = Answers(2 * PAIRS, equal_lengths=True)
    policy, reference = answers.pairs()
    ours = mpo_loss(policy=policy, reference=reference, chosen_nll=answers.chosen_nll, beta=BETA).losses.mean()
    theirs = trl_dpo(answers, ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0])
    assert_equal_with_gradient(ours, theirs, answers.leaf)


def test_mpo_of_unequal_answers_differs_by_the_mean_of_the_likelihood_alone():
    answers = Answers(2 * PAIRS)
    policy, reference = answers.pairs()
    ours = mpo_loss(policy=policy, reference=reference, chosen_nll=answers.chosen_nll, beta=BETA).losses.mean()
    theirs = trl_dpo(answers, ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0])
    per_answer, per_token = answers.chosen_nll.mean(), trl_dpo(answers, ["sft"])
    assert (per_answer - per_token).abs() > 1e-3
    assert_equal_with_gradient(ours - per_answer, theirs - per_token, answers.leaf)


def test_bco_with_a_shift_differs_from_trl_by_the_formula():
    """A shift of s rewards is TRL's loss of answers s / beta nats less likely."""
    answers = Answers(2 * PAIRS)
    policy, reference = answers.pairs()
    ours = bco_loss(policy=policy, reference=reference, beta=BETA, shift=torch.tensor(0.25)).losses.mean()
    theirs = trl_dpo(answers, ["bco_pair"])
    assert (ours - theirs).abs() > 1e-3
    with torch.no_grad():
        answers.leaf[:, -1] -= 0.25 / BETA
    torch.testing.assert_close(ours, trl_dpo(answers, ["bco_pair"]), rtol=1e-5, atol=1e-6)


def test_ipo_of_sums_is_the_papers_and_not_trls():
    answers = Answers(2 * PAIRS)
    policy, reference = answers.pairs()
    ours = ipo_loss(policy=policy, reference=reference, beta=BETA).losses.mean()
    margin = (policy.chosen - policy.rejected) - (reference.chosen - reference.rejected)
    torch.testing.assert_close(ours, ((margin - 1 / (2 * BETA)) ** 2).mean())
    assert (ours - trl_dpo(answers, ["ipo"])).abs() > 1e-2


@pytest.mark.parametrize("drift", [0.2, -0.2], ids=["positive baseline", "baseline raised to 0"])
def test_kto(drift):
    answers, others = Answers(PAIRS, seed=1), Answers(PAIRS, seed=2)
    with torch.no_grad():
        others.leaf[:, -1] = others.reference[:, -1] + drift
        others.leaf[:, :-1] = others.reference[:, :-1]
    desirable = torch.tensor([True, False, False, True, True, False])
    theirs = trainer(loss_type="kto", calculate_KL=True, desirable_weight=1.5, undesirable_weight=0.7)
    theirs._compute_kl_logps = MethodType(trl.KTOTrainer._compute_kl_logps, theirs)
    loss = trl.KTOTrainer._compute_loss(
        theirs,
        lambda input_ids, **_: (others if input_ids is others.input_ids else answers).model(),
        answers.inputs
        | {f"KL_{name}": value for name, value in others.inputs.items()}
        | {"label": desirable, "ref_logps": answers.reference.sum(1), "ref_KL_logps": others.reference.sum(1)},
        return_outputs=False,
    )

    ours = kto_loss(
        log_ratios=(answers.policy - answers.reference).sum(1),
        desirable=desirable,
        baseline=kto_baseline((others.policy - others.reference).sum(1)),
        beta=BETA,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    assert theirs._metrics["train"]["kl"][0] == pytest.approx(max(drift, 0), abs=1e-6)
    assert theirs._metrics["train"]["rewards/chosen"][0] == pytest.approx(ours.rewards[desirable].mean().item())
    assert_equal_with_gradient(ours.losses.mean(), loss, answers.leaf)


@pytest.mark.filterwarnings("ignore")
def test_cpo_and_simpo():
    cpo_trainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    answers = Answers(2 * PAIRS)
    settings = {"alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.5}

    policy = answers.pairs()[0]
    theirs = cpo_trainer.cpo_loss(trainer(loss_type="sigmoid", **settings), *policy)
    ours = cpo_loss(policy=policy, chosen_nll=answers.chosen_nll, beta=BETA, nll_weight=0.0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)

    policy = answers.pairs(means=True)[0]
    theirs = cpo_trainer.cpo_loss(trainer(loss_type="simpo", **settings), *policy)
    ours = simpo_loss(policy=policy, beta=BETA, gamma=0.5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.filterwarnings("ignore")
def test_orpo_odds_ratio():
    orpo_trainer = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
    answers = Answers(2 * PAIRS)
    policy = answers.pairs(means=True)[0]
    log_odds_term, chosen_rewards, rejected_rewards, *_ = orpo_trainer.odds_ratio_loss(trainer(), *policy)
    ours = orpo_loss(policy=policy, beta=BETA)
    assert_equal_with_gradient((ours.losses - answers.chosen_nll).mean(), -log_odds_term.mean(), answers.leaf)
    torch.testing.assert_close(ours.chosen_rewards, chosen_rewards)
    torch.testing.assert_close(ours.rejected_rewards, rejected_rewards)
