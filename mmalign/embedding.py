"""Tokens and pictures as the language model gets them.

Tests    tests/test_backbone.py, tests/test_zero3.py
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration


def embed(
    llava: LlavaForConditionalGeneration,
    input_ids: Int[Tensor, "rows tokens"],
    pixel_values: Float[Tensor, "images 3 height width"],
    *,
    idle: bool,
) -> Float[Tensor, "rows tokens hidden"]:
    """Embeddings of text, with what the tower sees in the image tokens' places; as `LlavaModel.forward` makes them.

    Args:
        llava: Any LLaVA, adapted or not.
        input_ids: With as many image tokens as the pictures have.
        pixel_values: Of all rows, one behind the other.
        idle: Run a blank picture through tower and projector where there is none: ranks must agree on which parameters
            have gradients, and on the order in which they gather them.
    """
    model = llava.model
    embedded: Tensor = model.get_input_embeddings()(input_ids)
    if not len(pixel_values) and not idle:
        return embedded
    seen = pixel_values if len(pixel_values) else pixel_values.new_zeros(1, *pixel_values.shape[1:])
    features: Tensor = torch.cat(model.get_image_features(seen.to(llava.dtype)).pooler_output).to(embedded.dtype)
    if not len(pixel_values):
        return embedded + 0.0 * features.sum()
    return embedded.masked_scatter(model.get_placeholder_mask(input_ids, embedded, features), features)
