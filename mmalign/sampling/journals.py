"""What each rank has answered, in a file of its own: `OUT.partial/answers-0.jsonl`, `answers-1.jsonl`, ...

A later start may have more ranks or fewer; what counts is in all files that are there.

Tests   tests/tools/test_sample.py
"""

from pathlib import Path

from mmalign.data.records import read_records
from mmalign.sampling.answers import Sampled

_NAMES = "answers-*.jsonl"


def journal_name(rank: int) -> str:
    """The file of a rank."""
    return _NAMES.replace("*", str(rank))


def read_journals(folder: Path) -> dict[str, Sampled]:
    """What all ranks have answered, in this start and in earlier ones, by id.

    Raises:
        ValueError: A line is damaged.
    """
    return {each.id: each for path in sorted(folder.glob(_NAMES)) for each in read_records(path, Sampled)}
