"""ZeRO-3 on CPU ranks beside one plain process: the embedded model's DPO, the same steps, how far the losses lie apart.

    python benchmarks/zero3.py

Ranks are started by torchrun, as on GPUs. On a machine with as many GPUs, `--gpus` runs `zero3` on those instead.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loader import machine

RESULT = Path(__file__).parent / "results" / "zero3.json"
STEPS = 8
COMMAND = [
    *("fit", "--config=dpo.yaml", "--config=scale/tiny.yaml", f"--trainer.max_steps={STEPS}", "--data.val_shards="),
    *("--data.micro_batch_size=2", "--model.backbone.train_projector=true"),
    "--model.backbone.gradient_checkpointing=true",
]
HALF = ["--model.backbone.dtype=bfloat16", "--trainer.precision=bf16-mixed"]


def main() -> None:
    """Run all, compare each with the plain one in float32, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", action="store_true", help="run `zero3` on GPUs")
    strategy = ["--trainer.strategy=zero3", "--trainer.accelerator=gpu"]
    strategy = strategy if parser.parse_args().gpus else ["--trainer.strategy=zero3_cpu"]
    with tempfile.TemporaryDirectory() as folder:
        plain, seconds = run(Path(folder) / "plain", 1, [])
        rows = [{"ranks": "one plain process", "precision": "32-true", "seconds": seconds, "first_loss": plain[0]}]
        for ranks, precision, more in ((2, "32-true", []), (4, "32-true", []), (2, "bf16-mixed", HALF)):
            losses, seconds = run(Path(folder) / f"{ranks}-{precision}", ranks, [*strategy, *more])
            apart = max(abs(mine - theirs) for mine, theirs in zip(losses, plain, strict=True))
            row = {"ranks": ranks, "precision": precision, "seconds": seconds, "first_loss": losses[0]}
            rows.append(row | {"first_loss_from_ln2": abs(losses[0] - math.log(2)), "largest_difference": apart})
            print(rows[-1])
    versions = machine(("torch", "lightning", "deepspeed", "transformers", "peft"))
    RESULT.write_text(json.dumps({"steps": STEPS, "runs": rows, "machine": versions}, indent=1) + "\n")


def run(folder: Path, ranks: int, options: list[str]) -> tuple[list[float], float]:
    """Losses of the optimizer steps, and the seconds of the whole command.

    Args:
        folder: Of the run.
        ranks: 1 is a plain process.
        options: Behind the command.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    arguments = [*COMMAND, *options, f"--trainer.devices={ranks}", f"--trainer.default_root_dir={folder}"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *launch, "-m", "mmalign.cli", *arguments],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    seconds = round(time.perf_counter() - began, 1)
    with (folder / "logs/version_0/metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]], seconds


if __name__ == "__main__":
    main()
