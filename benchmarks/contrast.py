"""What `mmalign contrast` makes of the embedded model's own answers, by the exact judge.

    python benchmarks/contrast.py                  into benchmarks/results/contrast.json (a few minutes)
    python benchmarks/contrast.py --samples 6      a try; nothing is written down

The first samples of the shipped set `world`; the chosen answer is the best rated one. Of each way: how many rejected
answers differ from the chosen one, how many are worse by the exact quality (0-12), equal or better, and by how much.
"""

from collections import Counter
from pathlib import Path

from outcome import run

from mmalign import cli
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.shards import ShardWriter
from mmalign.world.judge import WorldJudge
from mmalign.world.tasks import task

RESULT = Path(__file__).parent / "results" / "contrast.json"
WAYS = {
    "bdhs": ["bdhs"],
    "bdhs --hide noise": ["bdhs", "--hide=noise"],
    "povid": ["povid"],
    "dropout_ntp": ["dropout_ntp"],
}


def measure(folder: Path, samples: int) -> dict[str, object]:
    """Every way, on the same samples.

    Args:
        folder: Empty.
        samples: Of `world`, from its first.
    """
    source = ShardSet(Source(path="world").resolve())
    with ShardWriter(folder / "world") as writer:
        for number in range(samples):
            writer.write(source[number])
    found: dict[str, object] = {}
    for number, (name, options) in enumerate(WAYS.items()):
        out = folder / str(number)
        cli.main(["contrast", *options, f"--shards={folder / 'world'}", f"--out={out}", "--checkpoint=embedded"])
        found[name] = compare(ShardSet(str(out)))
    return found


def compare(made: ShardSet) -> dict[str, int | float]:
    """Chosen against rejected, by the exact judge."""
    counts, gap = Counter[str](), 0
    for number in range(len(made)):
        sample = made[number]
        assert sample.preference is not None
        chosen, rejected = (sample.responses[each].text for each in sample.preference)
        good, bad = (WorldJudge().rate(task(sample.id), text).quality for text in (chosen, rejected))
        counts["differ"] += chosen != rejected
        counts["worse" if bad < good else "better" if bad > good else "equal"] += 1
        gap += good - bad
    names = ("differ", "worse", "equal", "better")
    return {"pairs": len(made), **{name: counts[name] for name in names}, "mean gap": round(gap / len(made), 2)}


if __name__ == "__main__":
    run(__doc__, measure, RESULT, option="--samples", full=60, about="of the shipped set `world`")
