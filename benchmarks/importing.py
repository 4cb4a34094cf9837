"""Importing alone: samples a second from a file with JPEGs of about 100 kB to shards, and the memory it takes.

    python benchmarks/importing.py                    into benchmarks/results/importing.json (3 minutes, 2.5 GB of disk)
    python benchmarks/importing.py --pictures 300     a try; nothing is written down

LLaVA-style JSON lines, a picture of its own for each: COCO's sizes, noise with as much in it as a photo, 400 of them,
which differ from then on in a comment only; so none has the bytes of another, and each is decoded. Imported as
`mmalign import llava` does, by as many threads as there are processors, once copying only (`likeness.duplicates` off)
and once with every picture decoded for its perceptual hash; with a fifth of the pictures and with all, each in a
process of its own, whose greatest resident memory is told. Seconds by the clock, from the first record to the set in
place, syncing to the disk included; the pictures have just been written, so they are read from memory. Beside them the
processor's seconds, and how many processes were running when each began.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from loader import SIZES, machine, photo
from PIL import Image

RESULT = Path(__file__).parent / "results" / "importing.json"
PACKAGES = ("pillow", "imagehash", "numpy", "scipy", "pyarrow")
QUALITY = 82
"""Gives about 100 kB."""
MOTIFS, SHIFTS = 20, 20
PARTS = (5, 1)
"""A fifth of the pictures, then all."""


def main() -> None:
    """Measure, print, and write it where it was all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, help="samples, each with a picture of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found: dict[str, object] = {"machine": machine(PACKAGES), "kilobytes_a_picture": make(root, options.pictures)}
        for name, duplicates in (("copying", False), ("with perceptual hashes", True)):
            found[name] = [measure(root, options.pictures // part, duplicates=duplicates) for part in PARTS]
            print(name, json.dumps(found[name], indent=2))
    if options.pictures == parser.get_default("pictures"):
        RESULT.write_text(json.dumps(found, indent=2) + "\n")


def make(root: Path, count: int) -> float:
    """Write pictures and the records that name them; the mean size of a picture in kB.

    Args:
        root: Where to.
        count: Of the pictures.
    """
    chance = np.random.default_rng(0)
    photos = [photo(SIZES[n % len(SIZES)], chance) for n in range(MOTIFS)]
    motifs = [shifted(photos[n % MOTIFS], chance) for n in range(MOTIFS * SHIFTS)]
    (root / "pictures").mkdir()
    sizes = []
    with (root / "records.jsonl").open("w") as records:
        for number in range(count):
            comment = b"\xff\xfe\x00\x0a%08d" % number
            motif = motifs[number % len(motifs)]
            path = root / "pictures" / f"{number:06d}.jpg"
            path.write_bytes(motif[:2] + comment + motif[2:])
            sizes.append(path.stat().st_size)
            turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "Noise. " * 40}]
            records.write(json.dumps({"id": str(number), "image": path.name, "conversations": turns}) + "\n")
    return round(float(np.mean(sizes)) / 1000, 1)


def shifted(picture: bytes, chance: np.random.Generator) -> bytes:
    """A picture pushed to somewhere else, and encoded to about 100 kB."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    buffer = io.BytesIO()
    Image.fromarray(np.roll(pixels, chance.integers(0, 400, 2), (0, 1))).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def measure(root: Path, count: int, *, duplicates: bool) -> dict[str, float]:
    """Import the first records in a process of its own.

    Args:
        root: From `make`.
        count: Of the records.
        duplicates: Whether pictures are compared by their looks.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (root, count, duplicates))


def run(root: Path, count: int, duplicates: bool) -> dict[str, float]:
    """What one import takes; in the process that is measured.

    Args:
        root: From `make`.
        count: Of the records.
        duplicates: Whether pictures are compared by their looks.
    """
    from mmalign.data.importers.llava import read_llava
    from mmalign.data.importers.pictures import Pictures
    from mmalign.data.importers.sources import open_records
    from mmalign.tools.import_engine import origin_of, write_shards
    from mmalign.tools.import_likeness import LikenessSettings

    first = root / "first.jsonl"
    with (root / "records.jsonl").open() as lines:
        first.write_text("".join(line for _, line in zip(range(count), lines, strict=False)))
    load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    records = open_records(str(first))
    write_shards(
        read_llava(records.rows, Pictures(root / "pictures"), source="noise"),
        lambda _: root / "shards",
        total=records.total,
        origin=origin_of(first),
        command="import llava",
        settings={},
        out=root / "shards",
        likeness=LikenessSettings(duplicates=duplicates),
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "samples": count,
        "samples_per_s": round(count / seconds, 1),
        "processor_ms_a_sample": round(
            1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count, 3
        ),
        "resident_mb_before": round(before.ru_maxrss / 1000),
        "resident_mb_at_most": round(after.ru_maxrss / 1000),
        "load_before": round(load, 2),
    }


if __name__ == "__main__":
    main()
