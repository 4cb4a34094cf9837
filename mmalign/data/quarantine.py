"""Quarantine: broken samples leave holes, are listed, and are forgiven within a budget.

    runs/mine/quarantine.jsonl
    {"source": "shards/mine", "shard": "000003.tar", "key": "scene7", "reason": "...picture 0: cannot be decoded..."}

The list grows in the main process of each rank, when a batch is handed to the trainer, so what workers read ahead of a
kill is not in it. All ranks share one file: each sees what the others found, no sample stands in it twice, and a
resumed run goes on with it. So the budget is that of the whole run, whatever the number of ranks; the rank that exceeds
it stops, and says so.

Tests    tests/data/test_quarantine.py
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from mmalign.data.sample import ShardError

_LOG = logging.getLogger(__name__)

QUARANTINE_NAME = "quarantine.jsonl"


class Bad(NamedTuple):
    """A sample that cannot be used."""

    source: str
    """Path of its shard set, as the config names it."""
    shard: str
    key: str
    reason: str


class QuarantineError(ShardError):
    """More is broken than the budget allows."""


@dataclass
class Quarantine:
    """Lists broken samples of a set of rows, and stops where they are too many.

    The budget is a share of an epoch's rows, but at least one sample: of 500 rows 0.1 % is none, and who asks for a
    quarantine does not want to stop at the first broken one (`data.on_bad: stop` does that). Each sample counts once,
    in however many rows and epochs it stands. `in_a_row` finds early what a share of many rows finds late: a disk that
    is gone. It counts rows of one rank, in the order of training.
    """

    path: Path
    """The list."""
    sources: frozenset[str]
    """Paths whose samples count here."""
    rows: int
    """Of an epoch."""
    share: float = 0.001
    """Broken samples that are allowed, for each row of an epoch."""
    in_a_row: int = 100
    """Broken rows one after the other at which a rank stops, however few they are in all."""
    rank: int = 0
    _listed: set[tuple[str, str, str]] = field(default_factory=set, init=False)
    _read_to: int = field(default=0, init=False)
    _run: int = field(default=0, init=False)

    @property
    def allowed(self) -> int:
        """Samples that may be broken."""
        return max(1, int(self.rows * self.share))

    def admit(self, verdicts: Sequence[Bad | None]) -> None:
        """List the broken ones among some rows.

        Args:
            verdicts: Of each row of a batch, in order: None where it is sound.

        Raises:
            QuarantineError: They are too many.
        """
        for bad in verdicts:
            if bad is None:
                self._run = 0
                continue
            self._run += 1
            self._list(bad)
            if self._run >= self.in_a_row:
                raise QuarantineError(
                    f"rank {self.rank}: {self._run} broken rows one after the other, which is where "
                    f"`data.bad_in_a_row` stops. {self._said(bad)}"
                )
            if (count := self._count()) > self.allowed:
                raise QuarantineError(
                    f"rank {self.rank}: {count} broken samples, but `data.bad_share` {self.share:g} of the {self.rows} "
                    f"rows of an epoch allows {self.allowed}. {self._said(bad)}"
                )

    def _count(self) -> int:
        return sum(source in self.sources for source, _, _ in self._listed)

    def _said(self, last: Bad) -> str:
        return (
            f"The last: {last.reason} All are listed in {self.path}. Mend the shards (`mmalign inspect SHARDS "
            "--validate true` looks at a whole set), or allow more."
        )

    def _list(self, bad: Bad) -> None:
        """Append a sample unless it is there. Where that fails it counts on this rank, and the log names it."""
        if bad[:3] in self._listed:
            return
        try:
            self._append(bad)
        except OSError as error:
            self._listed.add(bad[:3])
            _LOG.warning("%s could not be written (%s). It lacks %s", self.path, error.strerror, bad)

    def _append(self, bad: Bad) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            whole = self._catch_up()
            if bad[:3] not in self._listed:
                line = json.dumps(bad._asdict(), ensure_ascii=False) + "\n"
                with self.path.open("ab") as file:
                    file.write((line if whole else f"\n{line}").encode())
                    file.flush()
                    os.fsync(file.fileno())
                self._catch_up()

    def _catch_up(self) -> bool:
        """Read what was appended since; whether the last line is whole, which it is not where a writer was killed."""
        if not self.path.exists():
            return True
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            added = file.read()
        lines, newline, rest = added.rpartition(b"\n")
        self._read_to += len(lines) + len(newline)
        for line in lines.splitlines():
            try:
                record = json.loads(line)
                self._listed.add((record["source"], record["shard"], record["key"]))
            except (ValueError, KeyError, TypeError):
                continue  # the half line of a killed writer
        return not rest
