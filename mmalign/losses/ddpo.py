"""Dense DPO: heavier weights on corrected tokens; RLHF-V (Yu et al., 2023), https://arxiv.org/abs/2312.00849."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import Batch, Role

SMALLEST_MATCH = 3
"""Tokens that must agree in a row to count as unchanged: a lone common word between two changes is part of them."""


def segment_weights(batch: Batch, weight: float) -> Float[Tensor, " targets"]:
    """Weight of every target, for `sum_responses`: `weight` where an answer was changed, 1 elsewhere.

        log pi(answer) = sum_unchanged log pi(token) + weight * sum_changed log pi(token)     divided by the sum of
                                                                                             weights for the mean

    A pair is compared token by token, rejected against chosen. Changed is what stands between two common blocks in
    both answers. As in the authors' code, words that only one of the two has (a pure insertion or deletion) keep
    weight 1, and so do the words both begin with, however few: there, they continue the prompt's block. Unlike in
    the code, frequent tokens are not passed over in long answers (difflib's autojunk, on at 200 tokens).

    Responses that are neither chosen nor rejected, and rows without both, keep 1.

    Args:
        batch: At most one chosen and one rejected response a row.
        weight: gamma; 5 in the paper, 3 in the code of the LLaVA study that followed it.
    """
    weights = torch.ones(len(batch.targets), device=batch.targets.device)
    for chosen, rejected in _pairs(batch):
        spans = _changed(batch.targets[rejected].tolist(), batch.targets[chosen].tolist())
        for rejected_span, chosen_span in spans:
            weights[rejected[rejected_span]] = weight
            weights[chosen[chosen_span]] = weight
    return weights


def _pairs(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the targets of the chosen and of the rejected response, for each row that has both."""
    responses = {
        (row, role): number
        for number, (row, role) in enumerate(zip(batch.row_index.tolist(), batch.roles.tolist(), strict=True))
    }
    for row in range(batch.num_rows):
        chosen, rejected = responses.get((row, Role.CHOSEN)), responses.get((row, Role.REJECTED))
        if chosen is not None and rejected is not None:
            yield (
                (batch.response_index == chosen).nonzero().flatten(),
                (batch.response_index == rejected).nonzero().flatten(),
            )


def _changed(before: list[int], after: list[int]) -> Iterator[tuple[slice, slice]]:
    """Spans of two sequences that replace one another, between blocks common to both."""
    prefix = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    blocks = SequenceMatcher(None, before[prefix:], after[prefix:], autojunk=False).get_matching_blocks()
    i = j = prefix
    for block in [b for b in blocks if b.size >= SMALLEST_MATCH] + blocks[-1:]:  # the last one, of size 0, is the end
        i_end, j_end = prefix + block.a, prefix + block.b
        if i < i_end and j < j_end:
            yield slice(i, i_end), slice(j, j_end)
        i, j = i_end + block.size, j_end + block.size
