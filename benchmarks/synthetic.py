"""Random weights and random preference pairs of a given size: what a step costs depends on neither."""

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmalign.backbone import LANGUAGE_LINEARS, Llava
from mmalign.batch import Batch, Role
from mmalign.data.collate import Collator
from mmalign.data.rows import EncodedAnswer, EncodedRow


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a LLaVA and of the pairs that it sees."""

    layers: int
    width: int
    inner: int
    heads: int
    vision_layers: int
    vision_width: int
    vision_inner: int
    vision_heads: int
    vocabulary: int = 32_064
    pixels: int = 336
    patch: int = 14
    prompt_tokens: int = 75
    answer_tokens: int = 200
    pairs: int = 2

    @property
    def image_tokens(self) -> int:
        """Of one picture."""
        return (self.pixels // self.patch) ** 2

    @property
    def useful_tokens(self) -> int:
        """Tokens that a step of separate sequences has, each prompt counted for both of its answers."""
        return 2 * self.pairs * (self.image_tokens + self.prompt_tokens + self.answer_tokens)


SMALL = Shape(
    layers=10,
    width=640,
    inner=1536,
    heads=10,
    vision_layers=6,
    vision_width=256,
    vision_inner=1024,
    vision_heads=4,
)
"""About 90 million parameters, the tower as large a part of it as LLaVA-1.5's is."""
LLAVA_13B = Shape(
    layers=40,
    width=5120,
    inner=13_824,
    heads=40,
    vision_layers=24,
    vision_width=1024,
    vision_inner=4096,
    vision_heads=16,
)
"""LLaVA-1.5-13B: https://huggingface.co/llava-hf/llava-1.5-13b-hf/blob/main/config.json"""
TINY = Shape(
    layers=2,
    width=32,
    inner=64,
    heads=2,
    vision_layers=2,
    vision_width=32,
    vision_inner=64,
    vision_heads=2,
    vocabulary=320,
    pixels=64,
    patch=16,
    prompt_tokens=9,
    answer_tokens=11,
)
"""Small enough to try a benchmark out."""


def config(shape: Shape) -> LlavaConfig:
    """The LLaVA of this shape; its last token is the picture's."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_width,
            intermediate_size=shape.vision_inner,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=shape.pixels,
            patch_size=shape.patch,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=4096,
            pad_token_id=0,
        ),
        image_token_id=shape.vocabulary - 1,
        image_seq_length=shape.image_tokens,
    )


def with_adapters(
    config: LlavaConfig, *, rank: int, alpha: int, device: str, dtype: torch.dtype = torch.float32
) -> Llava:
    """A LLaVA drawn at random on a device, with fresh adapters in float32."""
    with torch.device(device):
        base = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
        lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS, task_type="CAUSAL_LM")
        return Llava(get_peft_model(base, lora))


def rows(shape: Shape) -> list[EncodedRow]:
    """Pairs of random tokens and a picture of noise each; the same at every call."""
    random = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        found: list[int] = torch.randint(3, shape.vocabulary - 1, (count,), generator=random).tolist()
        return found

    def answer(role: Role) -> EncodedAnswer:
        reference = torch.full((1, shape.answer_tokens), -10.0)  # about ln(vocabulary), as an untrained model gives
        return EncodedAnswer(tokens(shape.answer_tokens), role, reference_logps=reference)

    return [
        EncodedRow(
            key=f"noise/{number}",
            prompt=[1, *[shape.vocabulary - 1] * shape.image_tokens, *tokens(shape.prompt_tokens - 1)],
            answers=(answer(Role.CHOSEN), answer(Role.REJECTED)),
            pixel_values=torch.randn(1, 3, shape.pixels, shape.pixels, generator=random),
        )
        for number in range(shape.pairs)
    ]


def batch(shape: Shape) -> Batch:
    """The rows as mmalign collates them."""
    return Collator(pad_token_id=0)(rows(shape))
