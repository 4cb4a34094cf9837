"""Other people's files -> samples. What cannot be used is named, with the reason; nothing is left out in silence.

An importer is a pure function, rows -> `Sample | Skipped`, one for each:

    read_nlvr(open_records("nlvr/dev/dev.json").rows, Pictures(Path("nlvr/dev")))
        -> Sample(key="1572-0", ...), Skipped("31-2", "no picture images/3/dev-31-2-0.png in nlvr/dev"), ...
"""

from typing import NamedTuple


class Skipped(NamedTuple):
    """A record that cannot be used."""

    name: str
    reason: str


class UnreadableError(ValueError):
    """Why a record cannot be used; its importer turns it into `Skipped`."""
