"""A benchmark at its full size, whose result is kept, or tried out at another one, whose result is only printed.

    run(__doc__, measure, RESULT, option="--samples", full=1_000_000, about="of the synthetic manifest")

Used by  benchmarks/contrast.py, quarantine.py, resume.py
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from loader import machine


def run(
    description: str | None,
    measure: Callable[[Path, int], Mapping[str, object]],
    result: Path,
    *,
    option: str,
    full: int,
    about: str,
) -> None:
    """Measure, print, and write it where it was all of it.

    Args:
        description: Of the command line.
        measure: Gets an empty folder and the number of samples.
        result: Where a result of full size is kept, as JSON.
        option: Names the number of samples on the command line.
        full: That number, unless said otherwise.
        about: What it is, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(option, dest="samples", type=int, default=full, help=about)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(), "samples": samples} | dict(measure(Path(folder), samples))
    text = json.dumps(found, indent=2)
    if samples == full:
        result.write_text(text + "\n")
    print(text)
