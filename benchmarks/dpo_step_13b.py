"""A DPO step of LLaVA-1.5-13B on one GPU, random weights of the real shape: tokens/s, memory, share of the peak rate.

    python benchmarks/dpo_step_13b.py --out benchmarks/results/dpo_step_13b.json
    python benchmarks/dpo_step_13b.py --shape tiny --device cpu        # tries the program out

bfloat16 weights drawn on the device, float32 adapters of rank 128 under autocast, a warm store of reference
log-probabilities. The share is of the rate that a plain bfloat16 matmul reaches on the same device in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from synthetic import LLAVA_13B, TINY, Shape, batch, config, with_adapters
from torch.optim import AdamW

from mmalign.backbone import recompute
from mmalign.batch import Batch
from mmalign.flops import training_flops
from mmalign.logps import pair_logps, response_logps, sum_responses
from mmalign.losses.dpo import dpo_loss

SHAPES = {"13b": LLAVA_13B, "tiny": TINY}
RANK, ALPHA, BETA = 128, 256, 0.1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--shape", choices=SHAPES, default="13b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=4, help="pairs a step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two that are not")
    parser.add_argument("--checkpointing", type=float, default=0.0, help="share of layers that recompute")
    options = parser.parse_args()
    shape = replace(SHAPES[options.shape], pairs=options.pairs)
    result = measure(shape, torch.device(options.device), options.steps, options.checkpointing)
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(shape: Shape, device: torch.device, steps: int, checkpointing: float) -> dict[str, Any]:
    """Time optimizer steps on one batch."""
    torch.manual_seed(0)
    llava = with_adapters(config(shape), rank=RANK, alpha=ALPHA, device=str(device), dtype=torch.bfloat16)
    recompute(llava.base.model.language_model, checkpointing)
    trained = [parameter for parameter in llava.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=1e-6, fused=device.type == "cuda")
    pairs = on(device, batch(shape))
    flops = training_flops(llava, pairs)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            policy = pair_logps(response_logps(llava, pairs), pairs)
            reference = pair_logps(sum_responses(pairs.reference_logps[0], pairs), pairs)
            loss = dpo_loss(policy=policy, reference=reference, beta=BETA, label_smoothing=0.0).losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step()
    times = [timed(step, device) for _ in range(steps)]
    seconds = statistics.median(times)
    rate = matmul_rate(device)
    return {
        "setting": vars(shape) | {"lora rank": RANK, "share of layers that recompute": checkpointing},
        "adapters in": str(trained[0].dtype),
        "seconds a step": {"median": seconds, "least": min(times), "most": max(times)},
        "useful tokens/s": shape.useful_tokens / seconds,
        "peak memory GiB": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "flops of a step": flops,
        "flops/s of a plain bfloat16 matmul": rate,
        "utilisation": flops / seconds / rate,
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        },
        "raw": {"seconds": times},
    }


def on(device: torch.device, pairs: Batch) -> Batch:
    """The batch there."""
    return Batch(*(each.to(device) if isinstance(each, torch.Tensor) else each for each in pairs))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the work is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def matmul_rate(device: torch.device) -> float:
    """Operations a second of a plain bfloat16 product, the best of a few."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: left @ right, device) for _ in range(20))


if __name__ == "__main__":
    main()
