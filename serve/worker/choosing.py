"""The next token of every row of a batch, each with its own temperature, top-p and random numbers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

COLDEST = 1e-4
"""Below this temperature the likeliest token is taken, as at 0: it would be anyway, and dividing by less overflows."""


class Chooser:
    """How one answer is sampled: what `mmalign.generate.sampling_processors` does, a row of many at a time."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.greedy = temperature < COLDEST
        self.temperature, self.top_p = temperature, top_p
        self.generator = torch.Generator().manual_seed(seed)


def choose(logits: Float[Tensor, "rows vocab"], choosers: Sequence[Chooser]) -> list[int]:
    """A token for each row. A seed gives the same token whatever other rows there are.

    Args:
        logits: Float32.
        choosers: One a row; their generators move on.
    """
    sampled = [row for row, chooser in enumerate(choosers) if not chooser.greedy]
    if not sampled:
        return logits.argmax(-1).tolist()
    mine = [choosers[row] for row in sampled]
    everywhere = len(sampled) == len(choosers)
    scores = _sampled(logits if everywhere else logits[sampled], mine)
    if everywhere:
        return scores.argmax(-1).tolist()
    tokens = logits.argmax(-1)
    tokens[sampled] = scores.argmax(-1)
    return tokens.tolist()


def _sampled(logits: Float[Tensor, "rows vocab"], choosers: Sequence[Chooser]) -> Float[Tensor, "rows vocab"]:
    temperatures = logits.new_tensor([chooser.temperature for chooser in choosers])[:, None]
    cut = [row for row, chooser in enumerate(choosers) if chooser.top_p < 1]
    if cut:
        tail = logits.new_tensor([1 - choosers[row].top_p for row in cut])[:, None]
        kept = _top_p(logits[cut] / temperatures[cut], tail) * temperatures[cut]  # on a CPU, measured, as offline
        logits = logits.index_copy(0, torch.tensor(cut, device=logits.device), kept)
    vocab = logits.shape[1]
    noise = torch.stack([torch.empty(vocab).exponential_(generator=chooser.generator) for chooser in choosers])
    return logits / temperatures - noise.log().to(logits.device)


def _top_p(scores: Float[Tensor, "rows vocab"], tail: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows vocab"]:
    """Scores without the unlikeliest tokens that have this much probability together; the likeliest stays."""
    ordered, places = scores.sort()
    unlikely = ordered.softmax(-1).cumsum(-1) <= tail
    unlikely[:, -1] = False
    return scores.masked_fill(unlikely.scatter(1, places, unlikely), -torch.inf)
