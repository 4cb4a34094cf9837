"""What a million samples cost before the first batch, and whether a resume costs more late in an epoch than early.

    python benchmarks/resume.py                       into benchmarks/results/resume.json (3 minutes)
    python benchmarks/resume.py --samples 20000       tries it out, prints only

A hundred small samples are written once; the manifest lists them ten thousand times, under names of their own, in a
hundred shards that are links to the one. So reading is real and the disk is not full. Measured are

- opening: manifest, view and order of all samples: seconds, and the peak of memory;
- starting: from building the loader and loading a state at 0 % or 95 % of the epoch to the first batch in hand, the
  order of the epoch included. In turns, the median of several; without worker processes and with two.
"""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from loader import PATCH, judged, photo, prose, save_processor, stretch
from outcome import run

from mmalign.data.datamodule import ShardData
from mmalign.data.loader import EncodedRows, RowLoader, Share
from mmalign.data.manifest import Manifest
from mmalign.data.order import epoch_order
from mmalign.data.sample import Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text

RESULT = Path(__file__).parent / "results" / "resume.json"
WRITTEN = 100
"""Samples that there really are."""
SHARDS = 100
BATCH_SIZE, MICRO_BATCH = 128, 8
PLACES = (0.0, 0.95)
"""Parts of an epoch at which it is resumed."""
LAPS = 7


def main() -> None:
    """Measure, print, and write it where it was all of it."""
    run(__doc__, measure, RESULT, option="--samples", full=1_000_000, about="of the synthetic manifest")


def measure(folder: Path, samples: int) -> dict[str, object]:
    """Write a set, then open it and start in it.

    Args:
        folder: Where.
        samples: How many its manifest lists.
    """
    checkpoint = save_processor(folder / "small", pixels=PATCH * 2)
    writing = multiprocessing.get_context("fork").Process(target=multiply, args=(folder / "set", samples))
    writing.start()  # in a process of its own: what writing took must not stand in the memory of reading
    writing.join()
    return starts(folder / "set", checkpoint)


def multiply(folder: Path, samples: int) -> None:
    """Write a few samples, and a manifest that lists them many times.

    Args:
        folder: Where.
        samples: How many it lists.
    """
    chance, text = np.random.default_rng(0), prose()
    with ShardWriter(folder) as writer:
        for number in range(WRITTEN):
            prompt = Message("user", (ImageSlot(), Text(stretch(text, 40, chance))))
            answers = tuple(judged(stretch(text, 60, chance), score) for score in (4, 2, 1, 0))
            writer.write(
                Sample(key=f"{number}", messages=(prompt,), images=(photo((28, 28), chance),), responses=answers)
            )
    few = Manifest.load(folder)
    (record,) = few.shards
    numbers = np.arange(samples)
    table = few.table.take(pa.array(numbers % WRITTEN))
    shard = numbers * SHARDS // samples
    for name, values in (("key", [f"{n:07d}" for n in numbers]), ("shard", shard.astype(np.int32))):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    shards = [
        record._replace(name=f"{number:06d}.tar", samples=int(count)) for number, count in enumerate(np.bincount(shard))
    ]
    for other in shards[1:]:
        (folder / other.name).hardlink_to(folder / record.name)
    Manifest(shards, table.combine_chunks(), folder=folder, location=str(folder)).save()


def starts(folder: Path, checkpoint: str) -> dict[str, object]:
    """Open all, then start at several places of the epoch.

    Args:
        folder: Of the set.
        checkpoint: Folder of the processor.
    """
    before = megabytes()
    data = ShardData(
        Pairs(), shards=str(folder), checkpoint=checkpoint, batch_size=BATCH_SIZE, micro_batch_size=MICRO_BATCH
    )
    _, opened = timed(lambda: data.setup("fit"))
    _, ordered = timed(lambda: epoch_order(data.train_rows.order_sources, seed=0, epoch=0, window=4))
    found: dict[str, object] = {
        "rows": len(data.train_rows),
        "open_s": round(opened, 2),
        "order_s": round(ordered, 2),
        "memory_mb": {"before": before, "opened": megabytes()},
    }
    lengths = data.train_rows.estimated_lengths(data.template.num_image_tokens)
    for workers in (0, 2):

        def start(place: float, workers: int = workers) -> object:
            share = Share(batch_size=BATCH_SIZE, micro_batch_size=MICRO_BATCH)
            loader = RowLoader(
                EncodedRows(data.train_rows, data.encoder), data.collator, share, lengths=lengths, num_workers=workers
            )
            position = int(loader.places * place) // BATCH_SIZE * BATCH_SIZE
            loader.load_state_dict(loader.state_dict() | {"position": position})  # type: ignore[typeddict-item]
            return next(iter(loader))

        laps = {place: list[float]() for place in PLACES}
        for _ in range(LAPS):
            for place in PLACES:
                laps[place].append(timed(lambda place=place: start(place))[1])
        medians = [statistics.median(laps[place]) for place in PLACES]
        found[f"first_batch_s_{workers}_workers"] = {
            **{f"at_{place:.0%}": round(value, 3) for place, value in zip(PLACES, medians, strict=True)},
            "ratio": round(medians[1] / medians[0], 3),
            "laps": {f"{place:.0%}": [round(lap, 3) for lap in each] for place, each in laps.items()},
        }
    found["memory_mb"] |= {"peak": megabytes()}  # type: ignore[operator]
    return found


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def megabytes() -> int:
    """Most memory that this process has ever held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


if __name__ == "__main__":
    main()
