"""The embedded model's parts, untrained: tokenizer, processor, and a LLaVA of about two million parameters.

The same classes as LLaVA-1.5, one size smaller in every direction: a CLIP tower whose second-last layer is read, a
two-layer GELU projector, a Llama.

Tests   tests/world/test_train_embedded.py
"""

from collections.abc import Iterator

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign.template import CHAT_TEMPLATES
from mmalign.world.instruction import lesson
from mmalign.world.render import CELL_PX, PICTURE_PX

WIDTH = 128
VOCAB_SIZE = 768
MAX_POSITIONS = 2048
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
_TOKENIZER_LESSONS = 2000


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the world's own text; any text can be encoded and decoded."""
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone, as in Llama's tokenizer, so that sums are sums of digits.
    digits = pre_tokenizers.Split(Regex(r"\d"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_world_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_processor() -> LlavaProcessor:
    """Tokenizer, chat template, and pictures padded to a square as LLaVA-1.5 does."""
    image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": PICTURE_PX},
        crop_size={"height": PICTURE_PX, "width": PICTURE_PX},
        do_pad=True,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=CELL_PX,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATES["llava_hf"],
        num_additional_image_tokens=1,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model.

    Args:
        tokenizer: Gives the size of the vocabulary and the special tokens.
        seed: Of the initial weights.
    """
    config = LlavaConfig(
        vision_config=_tower_config(),
        text_config=_language_config(tokenizer),
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=(PICTURE_PX // CELL_PX) ** 2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        # Words enter the language model at the scale that its layers keep, about 1; as transformers draws them
        # here, at 0.09, the first layer would drown them.
        model.model.language_model.embed_tokens.weight.mul_(WIDTH**0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _tower_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=PICTURE_PX,
        patch_size=CELL_PX,
        projection_dim=WIDTH,
    )


def _language_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=WIDTH**-0.5,  # 0.02, made for thousands, leaves attention flat for long at this width
    )


def _world_text() -> Iterator[str]:
    """Text of the world's lessons, and what people may type beside it."""
    yield "A chat between a curious user and an assistant. The assistant gives helpful answers to the user's questions."
    for index in range(_TOKENIZER_LESSONS):
        for conversation in lesson("visual", index).conversations:
            for question in conversation:
                yield f"USER: {question.text} ASSISTANT: {question.gold}"
                yield f"\n{question.text}"
