"""Every fault that a run must survive, by the hundred: runs the tests marked `faults`, writes down what they counted.

python benchmarks/faults.py                  all of them, into benchmarks/results/faults.json (under an hour)
python benchmarks/faults.py -k signals       some of them, printed only
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loader import machine

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "faults.json"
PACKAGES = "torch", "lightning", "deepspeed"


def main() -> None:
    """Run the tests with the options of the command line, print the table, write it where all have run."""
    options = sys.argv[1:]
    began, before = time.monotonic(), machine(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.jsonl"
        lines.touch()
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "faults", *options]
        code = subprocess.run(tests, cwd=ROOT, env=os.environ | {"MMALIGN_FAULTS_OUT": str(lines)}, check=False)
        table = [json.loads(line) for line in lines.read_text().splitlines()]
    print(f"{'':60}{'faults':>8}{'passed':>8}{'worst':>9}")
    for row in table:
        worst = f"{row['worst_s']:.1f} s" if row["worst_s"] is not None else ""
        print(f"{row['id']:60}{row['faults']:8}{row['passed']:8}{worst:>9}")
    if not options:
        result = {"minutes": round((time.monotonic() - began) / 60), "machine": before, "faults": table}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(code.returncode)


if __name__ == "__main__":
    main()
