"""Comparisons that were made before, found again by what they depend on: two score files and the draws.

Tests   tests/evaluation/suite/test_results.py
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmalign.evaluation.paired import Comparison
from mmalign.evaluation.scores import comparison_record, parse_comparison, write_whole

COMPARISONS_FILE = "comparisons.json"
RULE = "percentile bootstrap 1"
"""Changed with `paired.py`, so that nothing computed by an older rule is shown."""


def digest(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Cache:
    """`comparisons.json` of a suite folder; what is damaged in it is computed again."""

    def __init__(self, folder: Path) -> None:
        """Read it, if it is there.

        Args:
            folder: Of the suite.
        """
        self._path = folder / COMPARISONS_FILE
        self._records: dict[str, list[dict[str, Any]]] = {}
        with suppress(OSError, TypeError, ValueError):
            self._records = dict(json.loads(self._path.read_text(encoding="utf-8")))

    def get(self, parts: Sequence[str], make: Callable[[], Sequence[Comparison]]) -> tuple[Comparison, ...]:
        """What was found before, or is made now and kept.

        Args:
            parts: All that it depends on.
            make: Computes it.
        """
        key = hashlib.sha256(json.dumps([RULE, *parts]).encode()).hexdigest()
        with suppress(KeyError, TypeError, ValueError):
            return tuple(parse_comparison(record) for record in self._records[key])
        made = tuple(make())
        self._records[key] = [comparison_record(each) for each in made]
        with suppress(OSError):  # a folder that cannot be written to costs time, no more
            write_whole(self._path, json.dumps(self._records, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return made
