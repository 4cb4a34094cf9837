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
import yaml

import mmalign
from mmalign.backbone import BackboneSettings, Llava
from mmalign.checkpoint import DirectoryCheckpointIO, newest_checkpoint
from mmalign.data.views import Steer
from mmalign.evaluation.models import LINEAGE_FILE
from mmalign.processor import load_processor
from mmalign.template import CHAT_TEMPLATES


def export(run: Path, out: Path, checkpoint: Path | None = None, merge: bool = False) -> None:
    """Write a run's adapter as a PEFT directory.

    Args:
        run: The run's directory, `trainer.default_root_dir` of its `fit`.
        out: Where to write; an earlier export there is replaced.
        checkpoint: One checkpoint of the run; the newest that verifies if left out.
        merge: Also write `out/merged`, the whole model with the adapter merged into its weights.

    Raises:
        FileNotFoundError: No run, or no usable checkpoint in it.
        ValueError: `out` is something else than an earlier export, or the checkpoint is of another run.
    """
    _check_replaceable(out, run)
    config = read_run_config(run)
    chosen = checkpoint or newest_checkpoint(run)
    if chosen is None:
        raise FileNotFoundError(
            f"No usable checkpoint in {run / 'checkpoints'}. Has `mmalign fit` saved one there yet?"
        )
    settings = BackboneSettings(**config["model"]["init_args"]["backbone"])
    state = DirectoryCheckpointIO().load_checkpoint(chosen)
    llava = Llava(settings)
    saved = state["state_dict"].items()  # beside the weights, a method may keep running values of its own
    weights = {name.removeprefix("llava."): tensor for name, tensor in saved if name.startswith("llava.")}
    if sorted(weights) != sorted(llava.trainable_names()):
        raise ValueError(
            f"{chosen} does not fit {run}: its weights are not those that the run's `model.backbone` trains. "
            "Give a checkpoint of this run."
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
        "global_step": state["global_step"],
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


def read_run_config(run: Path) -> dict[str, Any]:
    """The config of a run's last `fit`, as Lightning wrote it beside the logs.

    Raises:
        FileNotFoundError: The run has none.
    """
    configs = sorted(run.glob("logs/version_*/config.yaml"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    if not configs:
        raise FileNotFoundError(
            f"{run} holds no run: logs/version_*/config.yaml is missing. Give the directory of a `fit`."
        )
    return dict(yaml.safe_load(configs[-1].read_text()))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign export`."""
    jsonargparse.auto_cli(export, args=None if args is None else list(args), as_positional=False, prog="mmalign export")
