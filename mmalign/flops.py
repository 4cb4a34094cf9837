"""What a training step demands of the machine, in floating-point operations, for the share of it that is used (MFU).

Counted is what the mathematics asks for, a multiplication and an addition as two (as in PaLM,
https://arxiv.org/abs/2204.02311, appendix B): useful tokens only, attention only where it looks, nothing twice.
Padding, recomputation and a reference forward are costs that a lower utilisation shows.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from mmalign.backbone import Llava
from mmalign.batch import Batch


def training_flops(llava: Llava, batch: Batch) -> int:
    """Operations of the policy's forward and backward pass over a batch; elementwise ones are not counted.

    Frozen matrices have gradients towards their input only. Nothing flows back below the first layer's adapters, unless
    the projector trains.

    Args:
        llava: The model; its sizes are read, nothing runs.
        batch: Its tokens, pictures and targets.
    """
    model: Any = llava.base.model
    language, text = model.language_model, model.config.text_config
    tokens = int((batch.segment_ids >= 0).sum())
    frozen, trained = _elements(language, trains=False), _elements(language, trains=True)
    operations = tokens * (2 * frozen + 3 * trained)
    if not llava.trains_projector:
        entrance = [getattr(language.layers[0].self_attn, f"{name}_proj") for name in "qkv"]
        operations -= tokens * sum(
            _elements(each, trains=False) + _elements(each, trains=True) // 2 for each in entrance
        )
    head_width = text.hidden_size // text.num_attention_heads
    looks = text.num_hidden_layers * text.num_attention_heads * head_width * visible_pairs(batch)
    operations += 3 * 2 * looks  # scores and sums of values; each has two gradients
    operations += 2 * len(batch.targets) * _size(llava.head.weight)
    return 2 * int(operations + len(batch.pixel_values) * _picture(llava, model))


def visible_pairs(batch: Batch) -> int:
    """How often a useful position looks at another or itself, in one head of one layer."""
    total = 0
    for segments in batch.segment_ids.tolist():
        prompt = segments.count(0)
        answers = [segments.count(number) for number in range(1, max(segments) + 1)]
        total += prompt * (prompt + 1) // 2 + sum(prompt * each + each * (each + 1) // 2 for each in answers)
    return total


def _picture(llava: Llava, model: Any) -> int:
    """Multiplications of one picture in tower and projector."""
    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tower = (patches + 1) * _elements(model.vision_tower.encoder, trains=False)
    tower += patches * _size(model.vision_tower.embeddings.patch_embedding.weight)
    tower += 2 * vision.num_hidden_layers * vision.hidden_size * (patches + 1) ** 2
    width = model.config.text_config.hidden_size
    first, second = vision.hidden_size * width, width * width
    projector = 2 * first + 3 * second if llava.trains_projector else first + second
    return int(tower + patches * projector)


def _elements(module: nn.Module, *, trains: bool) -> int:
    """Elements of the matrices that a module multiplies by: those that train, or the frozen ones of the base."""
    return sum(_size(parameter) for parameter in _matrices(module, trains=trains))


def _matrices(module: nn.Module, *, trains: bool) -> Iterator[nn.Parameter]:
    for name, parameter in module.named_parameters():
        idle = "embed_tokens" in name or ("lora_" in name and not parameter.requires_grad)  # a reference's adapter
        if parameter.requires_grad == trains and not idle and getattr(parameter, "ds_shape", parameter.shape)[1:]:
            yield parameter


def _size(parameter: Any) -> int:
    """Elements of a parameter, also where ZeRO-3 keeps it elsewhere."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
