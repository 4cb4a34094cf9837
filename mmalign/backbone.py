"""LLaVA with LoRA adapters: the one model that every method trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlavaForConditionalGeneration

from mmalign import adapters
from mmalign.attention import PROMPT_FIRST, response_mask
from mmalign.batch import Batch
from mmalign.embedding import embed
from mmalign.processor import LOADING_ERRORS, resolve_checkpoint, unusable_checkpoint
from mmalign.sharding import is_sharded
from mmalign.template import TemplateName

LANGUAGE_LINEARS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""All linear layers of the language model; not head, projector or vision tower: LLaVA-1.5's LoRA recipe."""
PROJECTOR = "multi_modal_projector"


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """Which LLaVA checkpoint to adapt, and how."""

    checkpoint: str
    """`embedded` (the tiny model that ships with mmalign), a folder written by `save_pretrained`, or a hub name."""
    template: TemplateName = "vicuna_v1"
    """Chat format. `vicuna_v1` as LLaVA-1.5 was trained, `llava_hf` without the system sentence."""
    pad_images: bool = True
    """Pad pictures to a square as LLaVA-1.5's own code does; false crops the centre, as the hub's configs do."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen weights. Adapters are always float32."""
    lora_rank: int = 128
    """Rank of every adapter."""
    lora_alpha: int = 256
    """Adapter output is scaled by `lora_alpha / lora_rank`."""
    lora_dropout: float = 0.05
    """Dropout on the adapters' input, in [0, 1)."""
    train_projector: bool = False
    """Also train the projector in full, kept by PEFT's `modules_to_save` so that the reference has the old one."""
    gradient_checkpointing: bool | float = False
    """Recompute activations in the backward pass: in all decoder layers (a third more arithmetic for far less memory),
    in none, or in this share of them, in [0, 1]."""
    adapter: str = ""
    """PEFT folder of an adapter to start from: the policy starts as a copy of it, the reference is base + adapter."""


def load_llava(checkpoint: str, *, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """The plain model of a checkpoint, in eval mode.

    Raises:
        FileNotFoundError, ValueError: Nothing loadable there, or not all weights; see `unusable_checkpoint`.
    """
    try:
        loaded = LlavaForConditionalGeneration.from_pretrained(
            resolve_checkpoint(checkpoint),
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the names
        )
        model, info = cast(tuple[LlavaForConditionalGeneration, dict[str, set[Any]]], loaded)
        # What is not in the files was drawn at random, with no more than a warning. Tied heads and buffers never count.
        if invented := sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}):
            raise ValueError(f"weights missing or of another shape: {', '.join(invented)}")
    except LOADING_ERRORS as error:
        raise unusable_checkpoint(checkpoint, error) from error
    return model


class Llava(nn.Module):
    """A frozen LLaVA whose language model carries trainable LoRA adapters."""

    model: PeftModel

    def __init__(self, source: BackboneSettings | PeftModel) -> None:
        """Take a model as it is, or load a checkpoint and adapt it.

        Args:
            source: A LLaVA that has its adapters, or the settings of fresh ones (lora_B is zero: policy and reference
                start equal).
        """
        super().__init__()
        self.model = source if isinstance(source, PeftModel) else self._adapted(source)
        self.base.model.language_model.set_attn_implementation(PROMPT_FIRST)
        self.train()  # from_pretrained leaves eval mode and Lightning keeps it: no gradient checkpointing, no dropout

    @staticmethod
    def _adapted(settings: BackboneSettings) -> PeftModel:
        lora = _starting_config(settings) if settings.adapter else fresh_config(settings)
        base = load_llava(settings.checkpoint, dtype=getattr(torch, settings.dtype))
        try:
            with torch.random.fork_rng():  # adapters start alike however the base was loaded, cut among ranks or whole
                torch.manual_seed(torch.initial_seed())
                model = get_peft_model(base, lora)
        except ValueError as error:  # a fresh adapter fits every LLaVA
            raise adapters.unusable_adapter(settings.adapter, error) from error
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if is_sharded(model) and type(base.get_output_embeddings()) is not nn.Linear:
            reason = "it changes the output head, which ranks that share the weights would gather unequally"
            raise adapters.unusable_adapter(settings.adapter, ValueError(reason))
        if settings.adapter:
            adapters.load_weights(model, settings.adapter, adapters.POLICY)
            adapters.add_frozen(model, settings.adapter, adapters.REFERENCE)
        recompute(base.model.language_model, float(settings.gradient_checkpointing))
        return model

    @property
    def base(self) -> LlavaForConditionalGeneration:
        """The LLaVA under the adapters; its linear layers are the adapted ones."""
        return cast(LlavaForConditionalGeneration, self.model.get_base_model())

    @property
    def head(self) -> nn.Module:
        """Hidden state -> logits over the vocabulary."""
        return self.base.get_output_embeddings()

    def forward(self, batch: Batch) -> Float[Tensor, "rows tokens hidden"]:
        """Last hidden states; logits are for `logps` to take, where they are needed only."""
        idle = self.trains_projector or is_sharded(self)
        hidden: Tensor = self.base.model(
            inputs_embeds=embed(self.base, batch.input_ids, batch.pixel_values, idle=idle),
            attention_mask=response_mask(batch.segment_ids),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        return hidden

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside this context the model is what the run started from: the base, or base + starting adapter."""
        name = adapters.REFERENCE if adapters.REFERENCE in self.model.peft_config else None
        with adapters.acting(self.model, name):
            yield

    @contextmanager
    def adapter_as_reference(self, folder: str | Path) -> Iterator[None]:
        """Inside this context the model is base + the adapter in a folder, which is gone afterwards.

        Raises:
            FileNotFoundError, ValueError: No adapter there, or one that does not fit.
        """
        name = "further"
        adapters.add_frozen(self.model, folder, name)
        try:
            with adapters.acting(self.model, name):
                yield
        finally:
            adapters.remove(self.model, name)

    def save(self, folder: str | Path) -> None:
        """Write the policy's adapter, and no other, in PEFT's own format."""
        self.model.save_pretrained(str(folder), selected_adapters=[adapters.POLICY])

    @property
    def trains_projector(self) -> bool:
        """Whether the projector has gradients."""
        return any(PROJECTOR in name for name in self.trainable_names())

    def trainable_names(self) -> list[str]:
        """Names of the parameters that training may change."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]


def fresh_config(settings: BackboneSettings) -> LoraConfig:
    """PEFT's config of adapters that start at zero."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=LANGUAGE_LINEARS,
        modules_to_save=[PROJECTOR] if settings.train_projector else None,
        task_type="CAUSAL_LM",
    )


def _starting_config(settings: BackboneSettings) -> LoraConfig:
    """The config of the starting adapter, with this run's dropout.

    Raises:
        FileNotFoundError, ValueError: No adapter there, or its shape is not what the settings say.
    """
    lora = adapters.read_config(settings.adapter)
    found = {
        "lora_rank": lora.r,
        "lora_alpha": lora.lora_alpha,
        "train_projector": PROJECTOR in (lora.modules_to_save or ()),
    }
    if wrong := [f"{name}: {value}" for name, value in found.items() if value != getattr(settings, name)]:
        raise ValueError(
            f"The adapter in {settings.adapter} is not what `model.backbone` describes. A run goes on with the shape "
            f"of the adapter that it starts from: set {', '.join(wrong)}."
        )
    lora.lora_dropout = settings.lora_dropout
    lora.inference_mode = False
    return lora


def recompute(language_model: nn.Module, share: float) -> None:
    """Turn gradient checkpointing on in a share of the decoder layers, in [0, 1].

    The first ones: when the backward pass comes to them, the others have freed their activations already.

    Raises:
        ValueError: It is no share.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"`model.backbone.gradient_checkpointing` is the share of layers that recompute and must lie in [0, 1], "
            f"got {share}. true is all of them, false none."
        )
    layers = list[Any](cast(nn.ModuleList, language_model.layers))
    for layer in layers[: round(share * len(layers))]:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
