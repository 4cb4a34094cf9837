"""`mmalign export`: a checkpoint becomes what others load.

    out/adapter/
        adapter_model.safetensors, adapter_config.json   PEFT's own format
        tokenizer.json, processor_config.json, ...        the processor, with the chat template of the training
        lineage.json                                      what was trained from what
        merged/                                           on request: the whole model with the adapter merged in, and
                                                          processor and lineage again

Loaded by plain transformers and PEFT:

    base = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT)
    model = PeftModel.from_pretrained(base, "out/adapter")
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import lightning
import peft
import torch
import transformers

import mmalign
from mmalign.backbone import BackboneSettings, Llava
from mmalign.checkpoint import newest_checkpoint, read_adapter, read_run, verify_checkpoint
from mmalign.checkpoint.format import WEIGHTS
from mmalign.data.views import Steer
from mmalign.processor import load_processor
from mmalign.sampling.policy import LINEAGE_FILE
from mmalign.template import CHAT_TEMPLATES


def export(run: Path, out: Path, checkpoint: Path | None = None, merge: bool = False) -> None:
    """Write a run's adapter as a PEFT directory.

    Args:
        run: The run's directory, `trainer.default_root_dir` of its `fit`.
        out: Where to write; an earlier export there is replaced.
        checkpoint: One checkpoint of the run; the newest that verifies if left out.
        merge: Also write `out/merged`, the whole model with the adapter merged into its weights.

    Raises:
        FileNotFoundError: No usable checkpoint there.
        ValueError: `out` is something else than an earlier export, or the checkpoint is damaged.
    """
    _check_replaceable(out, run)
    chosen = checkpoint or newest_checkpoint(run, WEIGHTS)
    if chosen is None:
        raise FileNotFoundError(
            f"No usable checkpoint in {run / 'checkpoints'}. Has `mmalign fit` saved one there yet?"
        )
    verify_checkpoint(chosen, WEIGHTS)
    described = read_run(chosen)
    config = described["config"]
    settings = BackboneSettings(**config["model"]["init_args"]["backbone"])
    llava = Llava(settings)
    saved = read_adapter(chosen).items()  # beside the weights, a method may keep running values of its own
    weights = {name.removeprefix("llava."): tensor for name, tensor in saved if name.startswith("llava.")}
    if sorted(weights) != sorted(llava.trainable_names()):
        raise ValueError(
            f"{chosen} holds other weights than its own `model.backbone` trains: it was put together by hand, or by "
            "another version. Give another one."
        )
    llava.load_state_dict(weights, strict=False)

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    llava.save(partial)
    processor = load_processor(settings.checkpoint, pad_images=settings.pad_images)
    processor.chat_template = CHAT_TEMPLATES[settings.template]
    processor.save_pretrained(partial)
    lineage = {
        "base": settings.checkpoint,
        "template": settings.template,
        "pad_images": settings.pad_images,
        "method": config["model"]["class_path"],
        "checkpoint": chosen.name,
        "global_step": described["global_step"],
        "shards": config["data"]["shards"],
        "seed": config["seed_everything"],
        "versions": {m.__name__: m.__version__ for m in (mmalign, torch, transformers, peft, lightning)},
    } | _steering(config["data"]["view"])
    (partial / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1, default=str))
    if merge:
        llava.model.merge_and_unload().save_pretrained(partial / "merged")
        processor.save_pretrained(partial / "merged")
        shutil.copy(partial / LINEAGE_FILE, partial / "merged")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    print(f"{chosen} -> {out}" + (f" and {out / 'merged'}" if merge else ""))


def _steering(view: Mapping[str, Any]) -> dict[str, Any]:
    """What a steered model is to be asked for at inference: `{"steer": {"form": "likert", "attributes": {...}}}`."""
    if view["class_path"] != f"{Steer.__module__}.{Steer.__name__}":
        return {}
    steer = Steer(**view["init_args"])
    return {"steer": {"form": steer.form, "attributes": steer.wanted}}


def _check_replaceable(out: Path, run: Path) -> None:
    """Raise where writing to `out` would delete what no export wrote."""
    if out.exists() and not (out / LINEAGE_FILE).is_file():
        raise ValueError(f"--out {out} is there and is no export of mmalign. Choose another folder.")
    if run.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"--out {out} holds the run {run}, which replacing it would delete. Choose another folder.")


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign export`."""
    jsonargparse.auto_cli(export, args=None if args is None else list(args), as_positional=False, prog="mmalign export")
