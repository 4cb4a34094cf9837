"""The memory plan against what happens: peaks of training steps on a GPU; on the CPU what tensors say of themselves.

    python benchmarks/memory.py                                   # benchmarks/results/memory.json, both of what is here

On a GPU     `torch.cuda.max_memory_allocated` of two micro-batches with gradients and moments there, against the plan
             without its assumptions (context, fragmentation): random weights, adapters of rank 128, bfloat16
Everywhere   bytes of a step of LLaVA-1.5-7B and 13B, counted on tensors without values (allocations.py), and the saved
             tensors of a small LLaVA's real forward pass
"""

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from allocations import adapted, loss_of, saved_bytes, traced_step
from synthetic import LLAVA_13B, SMALL, Shape, batch, config
from torch.optim import AdamW

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch
from mmalign.memory import BFLOAT16, FLOAT32, MicroBatch, Model, Placement, activations, gpu_items
from mmalign.plan import total

LLAVA_7B = replace(LLAVA_13B, layers=32, width=4096, inner=11_008, heads=32)
SHAPES = {"small": SMALL, "llava-1.5-7b": LLAVA_7B, "llava-1.5-13b": LLAVA_13B}
OUT = Path(__file__).parent / "results" / "memory.json"


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    result = {
        "steps on tensors without values": [traced(name, *case) for name, case in cases()],
        "saved by a real forward pass on the CPU": [saved(dropout) for dropout in (0.0, 0.05)],
        "peaks of steps on a GPU": [measured(name, *case) for name, case in cases()] if gpu else "no GPU was here",
        "machine": {
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def cases() -> Iterator[tuple[str, tuple[Shape, BackboneSettings]]]:
    """Models and settings that are compared."""
    for name, pairs, recomputed in (
        ("small", 4, 0.0),
        ("small", 4, 1.0),
        ("llava-1.5-7b", 2, 0.5),
        ("llava-1.5-7b", 8, 1.0),
        ("llava-1.5-13b", 2, 0.0),
        ("llava-1.5-13b", 8, 1.0),
    ):
        yield name, (replace(SHAPES[name], pairs=pairs), settings_of(recomputed))


def settings_of(recomputed: float, *, dtype: str = "bfloat16", dropout: float = 0.05) -> BackboneSettings:
    """Adapters as `configs/dpo.yaml` has them."""
    return BackboneSettings(
        checkpoint="random",
        dtype="float32" if dtype == "float32" else "bfloat16",
        lora_dropout=dropout,
        train_projector=True,
        gradient_checkpointing=recomputed,
    )


def planned(shape: Shape, settings: BackboneSettings, *, on_gpu: bool) -> tuple[Model, MicroBatch]:
    """What the plan is made of."""
    bfloat16 = settings.dtype == "bfloat16"
    model = Model(
        config=config(shape),
        rank=settings.lora_rank,
        weight_bytes=BFLOAT16 if bfloat16 else FLOAT32,
        trains_projector=settings.train_projector,
    )
    rows = batch(shape)
    return model, MicroBatch(
        rows=rows.num_rows,
        tokens=rows.input_ids.shape[1],
        pictures=len(rows.pixel_values),
        targets=len(rows.targets),
        autocast=bfloat16,
        dropout=settings.lora_dropout > 0,
        on_gpu=on_gpu,
        recomputed=float(settings.gradient_checkpointing),
    )


def traced(name: str, shape: Shape, settings: BackboneSettings) -> dict[str, Any]:
    """A whole step of a model of any size."""
    model, micro_batch = planned(shape, settings, on_gpu=True)
    step = traced_step(config(shape), settings, batch(shape))
    kept, layer, working = activations(model, micro_batch)
    return line(name, micro_batch, planned=max(kept, step.gradients) + layer + working, found=step.peak)


def saved(dropout: float) -> dict[str, Any]:
    """The forward pass of the small model, as it runs."""
    settings = settings_of(0.0, dtype="float32", dropout=dropout)
    model, micro_batch = planned(SMALL, settings, on_gpu=False)
    llava, pairs = adapted(config(SMALL), settings, device="cpu"), batch(SMALL)
    found = saved_bytes(llava, lambda: loss_of(llava, pairs, autocast=False))
    return line("small, float32", micro_batch, planned=activations(model, micro_batch).saved, found=found)


def measured(name: str, shape: Shape, settings: BackboneSettings) -> dict[str, Any]:
    """Peak of a micro-batch on a GPU, when an optimizer step lies behind and a micro-batch has left its gradients."""
    model, micro_batch = planned(shape, settings, on_gpu=True)
    torch.cuda.empty_cache()
    llava = adapted(config(shape), settings, device="cuda")
    pairs = Batch(*(each.cuda() if isinstance(each, torch.Tensor) else each for each in batch(shape)))
    trained = [parameter for parameter in llava.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=1e-6)

    def pass_over() -> None:
        loss_of(llava, pairs, autocast=True).backward()

    pass_over()
    optimizer.step()
    optimizer.zero_grad()
    pass_over()
    torch.cuda.reset_peak_memory_stats()
    pass_over()
    found = torch.cuda.max_memory_allocated()
    alone = Placement(sharding="replicated", ranks=1, per_node=1)
    plan = total(gpu_items(model, micro_batch, alone, accumulates=True))
    return line(name, micro_batch, planned=plan, found=found)


def line(name: str, micro_batch: MicroBatch, *, planned: int, found: int) -> dict[str, Any]:
    """Both numbers, and how far the plan is off."""
    return {
        "model": name,
        "rows": micro_batch.rows,
        "positions": micro_batch.tokens,
        "recomputed": micro_batch.recomputed,
        "dropout": micro_batch.dropout,
        "planned bytes": planned,
        "found bytes": found,
        "off": round(planned / found - 1, 4),
    }


if __name__ == "__main__":
    main()
