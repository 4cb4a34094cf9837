"""A DPO step beside TRL's `DPOTrainer`: same weights, batch and optimizer, in alternating runs on two CPU cores.

    python benchmarks/dpo_step.py --out benchmarks/results/dpo_step.json

Three steps take turns, in two processes: ours with a warm store of reference log-probabilities, ours with a reference
forward inside the step (cold), and TRL's, which always has one (it refuses to compute them beforehand for pictures).
Ours is timed from one batch's start to the next's, with all that Lightning and the logging cost; TRL's from
`on_step_begin` to `on_step_end`, without its collation. TRL's gradient checkpointing, on by default, is off.

Memory is the process's peak resident set, as the kernel counts it; `grown` is what the steps added to it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is loaded, here and in the workers

import torch  # noqa: E402
from dpo_workers import ALPHA, RANK, Turns, run_ours, run_trl, write_weights  # noqa: E402
from synthetic import SMALL, TINY, Shape, batch, config, with_adapters  # noqa: E402

SIDES = ("trl", "warm", "cold")
SHAPES = {"small": SMALL, "tiny": TINY}
GIB = 2**30


def main() -> None:
    """Run one side as a worker, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--worker", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    if options.worker:
        {"ours": run_ours, "trl": run_trl}[options.worker](shape, options.folder, Turns())
        return
    result = compare(shape, options.shape, options.rounds)
    print(json.dumps({name: value for name, value in result.items() if name != "raw"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def compare(shape: Shape, name: str, rounds: int) -> dict[str, Any]:
    """Both processes, turn by turn; who goes first rotates."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_weights(shape, Path(folder))
        rates = [matmul_rate()]
        workers = {side: Worker(side, name, folder) for side in ("trl", "ours")}
        before = {side: worker.memory for side, worker in workers.items()}
        turn: dict[str, Callable[[], dict[str, float]]] = {
            "trl": lambda: workers["trl"].step("step"),
            "warm": lambda: workers["ours"].step("store"),
            "cold": lambda: workers["ours"].step("live"),
        }
        first = {side: turn[side]() for side in ("trl", "cold")}
        if abs(first["trl"]["loss"] - first["cold"]["loss"]) > 1e-4 * abs(first["trl"]["loss"]):
            raise RuntimeError(f"The two do not compute the same: {first}")
        turn["warm"]()  # the first step of each is not timed
        raw: dict[str, list[float]] = {side: [] for side in SIDES}
        busy: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES[number % 3 :] + SIDES[: number % 3]:
                step = turn[side]()
                raw[side].append(step["seconds"])
                busy[side].append(step["cpu"])
                print(f"{number} {side} {step['seconds']:.2f} s, {step['cpu']:.2f} of the processor's", file=sys.stderr)
            rates.append(matmul_rate())
        peaks = {side: worker.stop() for side, worker in workers.items()}
    result = summary(shape, parameters, first, raw, rates, before, peaks)
    return result | {"raw": {"seconds": raw, "processor seconds": busy, "matmul flops/s": rates}}


def summary(
    shape: Shape,
    parameters: dict[str, int],
    first: dict[str, dict[str, float]],
    raw: dict[str, list[float]],
    rates: list[float],
    before: dict[str, float],
    peaks: dict[str, float],
) -> dict[str, Any]:
    """What the numbers say. Ratios are medians over the rounds: the two steps of a round stood side by side."""
    medians = {side: statistics.median(times) for side, times in raw.items()}
    ratios = {side: [t / o for t, o in zip(raw["trl"], raw[side], strict=True)] for side in ("warm", "cold")}
    flops = step_flops(shape)
    rate = statistics.median(rates)
    return {
        "setting": {
            "pairs": shape.pairs,
            "tokens a side": {
                "image": shape.image_tokens,
                "prompt": shape.prompt_tokens,
                "answer": shape.answer_tokens,
            },
            "dtype": "float32",
            "lora": f"rank {RANK}, alpha {ALPHA}, no dropout, all linear layers of the language model",
            "optimizer": "AdamW, not fused, gradients clipped at norm 1 on both sides",
            "model": vars(shape),
            "parameters": parameters,
        },
        "loss of the first step": {side: first[side]["loss"] for side in first},
        "times TRL's useful tokens/s": {
            side: {"median": statistics.median(values), "least": min(values), "most": max(values)}
            for side, values in ratios.items()
        },
        "seconds a step": {
            side: {"median": medians[side], "least": min(raw[side]), "most": max(raw[side])} for side in SIDES
        },
        "useful tokens/s": {side: shape.useful_tokens / medians[side] for side in SIDES},
        "peak memory": {side: {"GiB": peaks[side], "grown GiB": peaks[side] - before[side]} for side in ("trl", "ours")}
        | {
            "ours / trl": peaks["ours"] / peaks["trl"],
            "grown ours / trl": (peaks["ours"] - before["ours"]) / (peaks["trl"] - before["trl"]),
        },
        "arithmetic": {
            "flops of a warm step": flops,
            "flops/s of a warm step": flops / medians["warm"],
            "flops/s of a plain float32 matmul": rate,
            "fraction used": flops / medians["warm"] / rate,
        },
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    import lightning
    import peft
    import transformers
    import trl

    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    versions = {each.__name__: each.__version__ for each in (torch, transformers, peft, lightning, trl)}
    return {
        "cpu": f"{len(cpu)} x {cpu[0]}",
        "threads": THREADS,
        "memory GiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        "load average at the end": os.getloadavg(),
        "python": platform.python_version(),
        "versions": versions,
    }


def matmul_rate(size: int = 2048, repeats: int = 8) -> float:
    """Floating-point operations a second of a plain float32 product, the best of a few."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def step_flops(shape: Shape) -> float:
    """Of a warm step of ours, as mmalign counts them."""
    from mmalign.flops import training_flops

    return training_flops(with_adapters(config(shape), rank=RANK, alpha=ALPHA, device="meta"), batch(shape))


class Worker:
    """The conductor's end of one worker."""

    def __init__(self, side: str, shape: str, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", side, "--shape", shape, "--folder", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.memory: float = self._read()["memory"]

    def step(self, order: str) -> dict[str, float]:
        """One optimizer step."""
        pipe(self._process.stdin).write(f"{order}\n")
        pipe(self._process.stdin).flush()
        return self._read()

    def stop(self) -> float:
        """Let it end, and say how much memory it ever had."""
        return self.step("stop")["memory"]

    def _read(self) -> dict[str, float]:
        line = pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"A worker died with {self._process.wait()}; its last words are above.")
        return dict(json.loads(line))


def pipe(end: IO[str] | None) -> IO[str]:
    """An end that is there."""
    assert end is not None
    return end


if __name__ == "__main__":
    main()
