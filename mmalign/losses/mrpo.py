"""Multi-Reference Preference Optimization, MRPO (Le et al., 2024), https://arxiv.org/abs/2405.16388."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps

TINY = 1e-6
"""Nats: added to every reference's gap, so that references without any opinion weigh the same."""


def multi_reference(
    *,
    references: Sequence[PairLogps],
    alphas: Sequence[float] | None = None,
    eta: float | None = 0.1,
    adaptive_eta: bool = True,
    code_alpha: bool = False,
) -> PairLogps:
    """One reference out of K, for `dpo_loss`: MRPO's closed form is DPO against their weighted harmonic mean.

        log pi_ref = -log sum_k alpha_k / pi_k,  sum_k alpha_k = 1
        alpha_k    = |p_k(chosen) - p_k(rejected)| / sum_j |p_j(chosen) - p_j(rejected)|        (adaptive weights)
        p_k       <- clip(p_k, (1 + eta) * p_1, (1 - eta) * p_1) for every k > 1                (CTRO)

    The first of `references` is the base: the model the policy starts from. It is never clipped, the others are
    clipped around it, all the log-probabilities p being negative. (The authors' code calls the base "reference 2".)
    eta is shared out between the two answers by how unlikely they are, |b| being the magnitude of the mean of
    p_k and p_1:

        eta(chosen) = eta * |b(chosen)| / (|b(chosen)| + |b(rejected)|),  eta(rejected) = eta - eta(chosen)

    The weights come from the references before they are clipped, as in the code. For K > 2, which the code does not
    have, each further reference is clipped on its own. The code's adaptive weights add 1e-6 to the denominator alone
    and leave the rest to the base; here every gap gets it, so that no reference is special.

    Args:
        references: The same pairs under each frozen model, the base first; detached, sums.
        alphas: A fixed weight for each reference, in their order; none, and they are adaptive, pair by pair.
        eta: How far a reference may be from the base, as a share of its log-probability, in [0, 1); none, and nothing
            is clipped.
        adaptive_eta: Share eta out between the two answers; otherwise each gets all of it.
        code_alpha: As in the authors' code, where the two weights stand on the wrong references: the sum is
            alpha_2 / pi_1 + alpha_1 / pi_2. Two references only.

    Raises:
        ValueError: No reference; weights that do not fit; `code_alpha` with other than two references.
    """
    if not references:
        raise ValueError("multi_reference: there is no reference. Name at least one reference store.")
    if code_alpha and len(references) != 2:
        raise ValueError(
            f"multi_reference: code_alpha swaps the weights of two references, and there are {len(references)}. "
            "Leave code_alpha off."
        )
    chosen = torch.stack([r.chosen for r in references]).detach()
    rejected = torch.stack([r.rejected for r in references]).detach()

    weights = _adaptive_weights(chosen, rejected) if alphas is None else _fixed_weights(alphas, chosen)
    if code_alpha:
        weights = weights.flip(0)
    if eta is not None:
        chosen, rejected = _clipped(chosen, rejected, eta, adaptive_eta)
    return PairLogps(_harmonic_mean(chosen, weights), _harmonic_mean(rejected, weights))


def _adaptive_weights(
    chosen: Float[Tensor, "references pairs"], rejected: Float[Tensor, "references pairs"]
) -> Float[Tensor, "references pairs"]:
    """A reference weighs as much as it is sure of the order of the pair, whichever way round."""
    gaps = (chosen - rejected).abs() + TINY
    return gaps / gaps.sum(0)


def _fixed_weights(
    alphas: Sequence[float], like: Float[Tensor, "references pairs"]
) -> Float[Tensor, "references pairs"]:
    """The given weights for every pair."""
    if len(alphas) != len(like) or min(alphas) < 0 or abs(sum(alphas) - 1) > 1e-6:
        raise ValueError(
            f"multi_reference: alphas are {list(alphas)} for {len(like)} references. Give one weight, 0 or more, for "
            "each reference, with sum 1."
        )
    return like.new_tensor(alphas)[:, None].expand_as(like)


def _clipped(
    chosen: Float[Tensor, "references pairs"], rejected: Float[Tensor, "references pairs"], eta: float, adaptive: bool
) -> tuple[Float[Tensor, "references pairs"], Float[Tensor, "references pairs"]]:
    """All references within eta of the first one."""
    chosen_eta = rejected_eta = torch.full_like(chosen, eta)
    if adaptive:
        chosen_size, rejected_size = (chosen + chosen[0]).abs(), (rejected + rejected[0]).abs()
        chosen_eta = eta * chosen_size / (chosen_size + rejected_size).clamp(min=TINY)
        rejected_eta = eta - chosen_eta
    return _around_first(chosen, chosen_eta), _around_first(rejected, rejected_eta)


def _around_first(
    logps: Float[Tensor, "references pairs"], eta: Float[Tensor, "references pairs"]
) -> Float[Tensor, "references pairs"]:
    """Clip to the first one's log-probability, a negative number, give or take the share eta of it."""
    return logps.clamp((1 + eta) * logps[0], (1 - eta) * logps[0])


def _harmonic_mean(
    logps: Float[Tensor, "references pairs"], weights: Float[Tensor, "references pairs"]
) -> Float[Tensor, " pairs"]:
    """-log sum_k weight_k / exp(logps_k), without leaving the logarithms."""
    return -torch.logsumexp(weights.log() - logps, dim=0)
