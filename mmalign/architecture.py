"""The sizes of a LLaVA without its weights: where its config comes from, and how many parameters each part has.

Counted are the matrices and vectors of `CLIPVisionModel`, `LlavaMultiModalProjector` and `LlamaForCausalLM` as
transformers builds them, and the adapters that PEFT puts on `backbone.LANGUAGE_LINEARS`.

Tests    tests/test_memory.py compares with the modules, built on torch's meta device
"""

from typing import Any, NamedTuple

from transformers import AutoConfig, LlavaConfig

from mmalign.processor import LOADING_ERRORS, resolve_checkpoint, unusable_checkpoint

LLAVA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAVA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
PUBLISHED = {"llava-hf/llava-1.5-7b-hf": LLAVA_7B, "llava-hf/llava-1.5-13b-hf": LLAVA_13B}
"""Language models of the two LLaVA-1.5 checkpoints, as their config.json on the hub has them."""
VOCABULARY = 32_064
"""Of both: Vicuna's 32,000 tokens, `<image>`, `<pad>`, filled up to a multiple of 64."""


class Sizes(NamedTuple):
    """Parameters of each part."""

    tower: int
    """Vision tower."""
    projector: int
    embeddings: int
    """Of the language model, with its last norm."""
    layer: int
    """One decoder layer."""
    layers: int
    """How many decoder layers there are."""
    head: int
    """0 where it shares the embeddings."""

    @property
    def total(self) -> int:
        """Of the whole model."""
        return self.tower + self.projector + self.embeddings + self.layers * self.layer + self.head


def read_architecture(checkpoint: str) -> tuple[LlavaConfig, str]:
    """The config of a checkpoint, and in words where it was found.

    Asked in turn: the files (of a folder, of the model that ships with mmalign, of the hub's cache on this machine),
    the two LLaVA-1.5 configs that are written down above, the hub.

    Args:
        checkpoint: `embedded`, a folder or a hub name.

    Raises:
        FileNotFoundError, ValueError: No config there, or none of a LLaVA-1.5; see `unusable_checkpoint`.
    """
    name = resolve_checkpoint(checkpoint)
    try:
        config, source = AutoConfig.from_pretrained(name, local_files_only=True), "its config.json"
    except LOADING_ERRORS as absent:
        if checkpoint in PUBLISHED:
            return published(checkpoint), "mmalign's description of the hub's config.json, which is not on this machine"
        try:
            config, source = AutoConfig.from_pretrained(name), "its config.json on the hub"
        except LOADING_ERRORS as error:
            raise unusable_checkpoint(checkpoint, error) from absent
    kinds = tuple(getattr(config, f"{part}_config", config).model_type for part in ("vision", "text"))
    if not isinstance(config, LlavaConfig) or kinds != ("clip_vision_model", "llama"):
        raise ValueError(
            f"{checkpoint!r} is a {config.model_type} of {' and '.join(kinds)}; what a LLaVA of CLIP and Llama needs "
            "is known here, no other. Point `model.backbone.checkpoint` at one such as llava-hf/llava-1.5-13b-hf."
        )
    return config, source


def published(checkpoint: str) -> LlavaConfig:
    """The config of one of the two LLaVA-1.5 checkpoints, by its hub name."""
    text = {**PUBLISHED[checkpoint], "model_type": "llama", "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5}
    # The defaults are LLaVA-1.5's tower: CLIP ViT-L/14 at 336 pixels.
    return LlavaConfig.from_dict({"text_config": text, "image_token_id": 32_000, "pad_token_id": 32_001})


def count_parameters(config: LlavaConfig) -> Sizes:
    """Parameters of each part of a LLaVA."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    width, inner, attended, shared = _widths(text)
    bias = config.multimodal_projector_bias
    features = config.vision_feature_layer
    entrance = vision.hidden_size * (1 if isinstance(features, int) else len(features))
    return Sizes(
        tower=_tower(vision),
        projector=_linear(entrance, width, bias=bias) + _linear(width, width, bias=bias),
        embeddings=text.vocab_size * width + width,
        layer=sum(
            (
                _linear(width, attended, bias=text.attention_bias) + _linear(attended, width, bias=text.attention_bias),
                2 * _linear(width, shared, bias=text.attention_bias),
                2 * _linear(width, inner, bias=text.mlp_bias) + _linear(inner, width, bias=text.mlp_bias),
                2 * width,
            )
        ),
        layers=text.num_hidden_layers,
        head=0 if config.tie_word_embeddings else text.vocab_size * width,
    )


def adapter_parameters(config: LlavaConfig, rank: int) -> int:
    """Parameters of the adapters of one decoder layer: a matrix into the rank and one out of it for each linear."""
    width, inner, attended, shared = _widths(config.text_config)
    return rank * (2 * (width + attended) + 2 * (width + shared) + 3 * (width + inner))


def image_tokens(config: LlavaConfig) -> int:
    """Positions of one picture in a prompt."""
    vision: Any = config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def _widths(text: Any) -> tuple[int, int, int, int]:
    """Of the residual stream, within the MLP, of all queries, of all keys."""
    head: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.hidden_size, text.intermediate_size, text.num_attention_heads * head, text.num_key_value_heads * head


def _tower(vision: Any) -> int:
    width, inner = vision.hidden_size, vision.intermediate_size
    patches = (vision.image_size // vision.patch_size) ** 2
    layer = 4 * _linear(width, width) + _linear(width, inner) + _linear(inner, width) + 2 * 2 * width
    return int(
        width  # of the class token
        + vision.num_channels * vision.patch_size**2 * width
        + (patches + 1) * width
        + vision.num_hidden_layers * layer
        + 2 * 2 * width  # norms before and behind the layers
    )


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)
