"""From the command to its first step: `mmalign fit` on the embedded model, one step and the end, by the clock.

    python benchmarks/first_step.py

Warm, the reference store is there; cold, all 600 samples of both shard sets are scored first. Checkpoint and exit are
in it, so the step itself comes sooner.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loader import machine

RESULT = Path(__file__).parent / "results" / "first_step.json"
ROUNDS = 3
COMMAND = ["fit", "--config=dpo.yaml", "--config=scale/tiny.yaml", "--trainer.max_steps=1"]


def main() -> None:
    """Time both, in turns, and write the result."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for state, measured in seconds.items():
                measured.append(round(run(Path(folder), f"{number}-{state}"), 1))
    result = {"command": f"mmalign {' '.join(COMMAND)}", "seconds": seconds, "machine": machine()}
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def run(folder: Path, name: str) -> float:
    """Seconds of one run.

    Args:
        folder: Holds the cache with the store, and the run.
        name: Of the run.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mmalign.cli", *COMMAND, f"--trainer.default_root_dir={folder / name}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
