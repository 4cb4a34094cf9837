"""Attention over rows that share their prompt: what sees what, and only as much of it as has to be computed.

A mask makes every position look at every other one and then forgets half of it. As long as all rows are still in their
prompts, attention is plain causal and needs no mask; only what comes behind is masked:

              keys            prompt    answers, padding
    queries   prompt          causal    nothing            no mask: half the work, and flash kernels on a GPU
              answers         all       own answer         a mask
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PROMPT_FIRST = "prompt_first"
"""Name of `prompt_first_attention` among those that transformers knows."""


def response_mask(segment_ids: Int[Tensor, "rows tokens"]) -> Bool[Tensor, "rows 1 queries tokens"]:
    """True where a position may look: backwards, at the prompt and at its own segment.

    Padding looks at padding (its own segment), so no softmax runs over nothing. Only the last positions have a line:
    from the first one on that is not in the prompt in every row.
    """
    tokens = segment_ids.shape[1]
    start = int((segment_ids == 0).all(dim=0).long().cumprod(dim=0).sum())
    key, query = segment_ids[:, None, :], segment_ids[:, start:, None]
    backwards = torch.ones(tokens - start, tokens, dtype=torch.bool, device=segment_ids.device).tril(start)
    return (backwards & ((key == 0) | (key == query)))[:, None]


def prompt_first_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention: causal where the mask has no line, as the mask says behind.

    Any other mask, or none, is SDPA's own affair: generation passes here too.
    """
    masked = query.shape[2] if attention_mask is None else attention_mask.shape[2]
    start = query.shape[2] - masked
    if start <= 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    asks, later_asks = query.split((start, masked), dim=2)
    keys, values = (each.narrow(2, 0, start) for each in (key, value))
    prompt, _ = sdpa_attention_forward(module, asks, keys, values, None, is_causal=True, **more)
    answers, _ = sdpa_attention_forward(module, later_asks, key, value, attention_mask, **more)
    return torch.cat((prompt, answers), dim=1), None


AttentionInterface.register(PROMPT_FIRST, prompt_first_attention)
AttentionMaskInterface.register(PROMPT_FIRST, sdpa_mask)
