"""What the quarantine costs: samples a second of the loader over sound samples, and where one in a hundred is broken.

    python benchmarks/quarantine.py     into benchmarks/results/quarantine.json (4 minutes)

The samples are those of `loader.py`. In a second set a bit is flipped in every hundredth, in its picture: found by its
hash, before anything is decoded. Each epoch over it starts with an empty list, so that every broken sample is listed
anew. In turns: sound with `stop`, sound with `quarantine`, broken with `quarantine`; medians, and the median of the
differences within a turn. Seconds are the processor's, and by the clock, which shows waiting.
"""

import os
import shutil
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from loader import MICRO_BATCH, PIXELS, save_processor, speed
from outcome import run

from mmalign.data.datamodule import ShardData
from mmalign.data.loader import EncodedRows, RowLoader, Share
from mmalign.data.manifest import Manifest
from mmalign.data.quarantine import Quarantine
from mmalign.data.rows import OnBad
from mmalign.data.views import Pairs

RESULT = Path(__file__).parent / "results" / "quarantine.json"
EVERY = 100
"""One sample in so many is broken."""
LAPS = 11


def main() -> None:
    """Measure, print, and write it where it was all of it."""
    run(__doc__, measure, RESULT, option="--pictures", full=200, about="samples")


def measure(folder: Path, pictures: int) -> dict[str, object]:
    """Write the samples twice, break some of one set, and load both in turns.

    Args:
        folder: Where.
        pictures: How many samples.
    """
    checkpoint = save_processor(folder / "llava", pixels=PIXELS)
    sound, broken = folder / "sound", folder / "broken"
    speed(sound, checkpoint, pictures)  # writes them
    shutil.copytree(sound, broken)
    count = damage(broken)
    return {"broken": count} | compare(sound, broken, checkpoint, folder / "quarantine.jsonl")


def damage(folder: Path) -> int:
    """Flip a byte of every hundredth sample, where it lies; the number of them."""
    manifest = Manifest.load(folder)
    numbers = range(0, len(manifest), EVERY)
    for number in numbers:
        extent = manifest.extent(number)
        with (folder / manifest.shards[extent.shard].name).open("r+b") as file:
            file.seek(extent.offset + extent.size // 2)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    return len(numbers)


def compare(sound: Path, broken: Path, checkpoint: str, listed: Path) -> dict[str, object]:
    """Epochs in turns.

    Args:
        sound: Folder of the samples.
        broken: The same, some broken.
        checkpoint: Folder of the processor.
        listed: Where the quarantine lists them.
    """
    cases: dict[str, tuple[Path, OnBad]] = {
        "sound, stop": (sound, "stop"),
        "sound, quarantine": (sound, "quarantine"),
        "1 % broken, quarantine": (broken, "quarantine"),
    }
    laps = {name: list[tuple[float, float]]() for name in cases}
    data = {folder: open_data(folder, checkpoint) for folder in (sound, broken)}
    for _ in range(LAPS + 1):
        for name, (folder, on_bad) in cases.items():
            listed.unlink(missing_ok=True)
            laps[name].append(epoch(data[folder], on_bad, listed))
    base = laps["sound, stop"][1:]
    found = dict[str, object]()
    for name, each in laps.items():
        measured = each[1:]  # the first turn warms up
        found[name] = {
            unit: {
                "samples_per_s": round(
                    statistics.median(1 / lap[at] for lap in measured) * len(data[sound].train_rows), 1
                ),
                "slower_by": round(
                    statistics.median(lap[at] / other[at] - 1 for lap, other in zip(measured, base, strict=True)), 4
                ),
            }
            for at, unit in enumerate(("of_one_core", "by_the_clock"))
        }
    return found


def open_data(folder: Path, checkpoint: str) -> ShardData:
    """The data of a training run."""
    data = ShardData(
        Pairs(), shards=str(folder), checkpoint=checkpoint, batch_size=MICRO_BATCH, micro_batch_size=MICRO_BATCH
    )
    data.setup("fit")
    return data


def epoch(data: ShardData, on_bad: OnBad, listed: Path) -> tuple[float, float]:
    """Seconds of an epoch: of the processor, and by the clock."""
    rows = data.train_rows
    quarantine = Quarantine(listed, frozenset(source.path for source in rows.sources), len(rows), share=1.0)
    loader = RowLoader(
        EncodedRows(rows, data.encoder, on_bad),
        data.collator,
        Share(batch_size=MICRO_BATCH, micro_batch_size=MICRO_BATCH),
        quarantine=quarantine if on_bad == "quarantine" else None,
    )
    processor, clock = time.process_time(), time.perf_counter()
    for _ in loader:
        pass
    return time.process_time() - processor, time.perf_counter() - clock


if __name__ == "__main__":
    main()
