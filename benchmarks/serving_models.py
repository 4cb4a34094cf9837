"""What `serving.py` has served: the embedded model without an end, and adapters that chance drew."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from mmalign.processor import load_processor, resolve_checkpoint


def make_base(folder: Path) -> Path:
    """The embedded model without an end."""
    tokenizer = load_processor("embedded").tokenizer
    base = folder / "base"
    shutil.copytree(resolve_checkpoint("embedded"), base)
    tensors = load_file(base / "model.safetensors")
    head = tensors["language_model.lm_head.weight"]
    head[tokenizer.eos_token_id] = head[tokenizer.pad_token_id]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    return base


def make_adapters(folder: Path) -> dict[str, Path]:
    """Three adapters as the demo trains them, with weights that chance drew."""
    adapters = {f"adapter-{number}": folder / f"adapter-{number}" for number in range(3)}
    for seed, path in enumerate(adapters.values()):
        torch.manual_seed(seed)
        llava = LlavaForConditionalGeneration.from_pretrained(resolve_checkpoint("embedded"))
        lora = LoraConfig(r=8, target_modules=r".*language_model.*_proj", init_lora_weights="gaussian")
        get_peft_model(llava, lora).save_pretrained(path)
    return adapters
