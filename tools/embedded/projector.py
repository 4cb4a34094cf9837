"""Where the projector starts from: the tower's own reading of each patch, in the language model's words.

A frozen tower's features are badly scaled: what tells red from blue is a percent of what tells something from nothing,
and a small language model does not find it in any time that we have (250 steps of 16 pictures with one thing each: no
trace of sight; from this start: colours after 60). LLaVA, whose CLIP features are just as raw, spends 558,000 captions.

So the first layer starts as the heads that the tower was pretrained with, and the second sends each class to the
embedding of its word: a patch with a red circle enters the language model about as the words "red" and "circle" do.

Tests   tests/world/test_train_embedded.py
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import LlavaModel, PreTrainedTokenizerFast

from mmalign.world.scene import COLOURS, SHAPES, SIZES

from .batches import PatchBatch

# What the right class of each label gives out of the first layer; wrong classes lie below zero, where GELU shuts.
_CLASS_STRENGTH = 3.0
# Scale of a class in the second layer, so that six labels together are about as large as one word.
_WORD_SCALE = 0.15
# The units that no class needs start small, or the raw features would drown the words.
_SPARE_SCALE = 0.02
_SEED = 1


@torch.no_grad()
def start_projector(
    model: LlavaModel, heads: Sequence[nn.Linear], batch: PatchBatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Set the projector's weights.

    Args:
        model: The inner model of a `LlavaForConditionalGeneration`.
        heads: Linear readers of the tower's patches, in the order of `PATCH_CLASSES`.
        batch: Pictures on which the heads' outputs are scaled.
        tokenizer: Gives the words of colours, shapes and sizes; other classes get random directions.
    """
    first, second = model.multi_modal_projector.linear_1, model.multi_modal_projector.linear_2
    embeddings = model.language_model.embed_tokens.weight
    hidden = model.vision_tower(batch.pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    directions = torch.empty_like(second.weight).normal_(generator=torch.Generator().manual_seed(_SEED))
    start = 0
    for head, words in zip(heads, (COLOURS, SHAPES, SIZES, (), (), ()), strict=True):
        scale = _CLASS_STRENGTH / head(hidden).amax(dim=-1).mean()
        end = start + head.out_features
        first.weight[start:end] = head.weight * scale
        first.bias[start:end] = head.bias * scale
        for number, word in enumerate(words, start=1):  # class 0 is an empty patch
            token = tokenizer.encode(f" {word}", add_special_tokens=False)[0]
            directions[:, start + number] = embeddings[token]
        start = end
    first.weight[start:] *= _SPARE_SCALE
    second.weight.copy_(directions * _WORD_SCALE)
    second.bias.zero_()
