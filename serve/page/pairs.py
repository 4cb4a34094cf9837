"""Votes as training data: the journal's pairs as a set of shards, written whole, in a process of its own.

    python -m mmalign.serve.page.pairs out/votes        out/votes/journal.jsonl -> out/votes/shards

The server runs this after votes, because the shards' modules import torch, which the process that speaks HTTP must not.
Ties and pairs of which both are bad stay in the journal: they prefer nothing. So do votes that have lost a picture.

Tests   tests/serve/page/test_votes.py
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from mmalign.data.lineage import Step
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import parse_messages

from .votes import JOURNAL, PICTURES, PREFERRED, SHARDS, read_votes

SOURCE = "votes"

_log = logging.getLogger(__name__)


def write_pairs(folder: Path) -> int:
    """Write the set anew, in the place of the former one.

    Args:
        folder: Of the votes.

    Returns:
        Number of pairs; where there is none, nothing is written.

    Raises:
        ValueError: A line of the journal is damaged.
    """
    with FileLock(folder / ".shards.lock"):  # one that a killed server left may still be at it
        journal = (folder / JOURNAL).read_bytes()
        journal = journal[: journal.rfind(b"\n") + 1]
        votes = read_votes(journal, where=folder / JOURNAL)
        choices = Counter(vote["choice"] for vote in votes)
        preferring = [vote for vote in votes if vote["choice"] in PREFERRED]
        pairs = [vote for vote in preferring if all((folder / PICTURES / name).is_file() for name in vote["pictures"])]
        if lost := len(preferring) - len(pairs):
            _log.warning("%s: %d votes are left out, their pictures are gone.", folder, lost)
            choices["without_picture"] = lost
        if not pairs:
            return 0
        with ShardWriter(folder / SHARDS) as writer:
            for vote in pairs:
                writer.write(_sample(folder, vote))
            writer.lineage = (
                Step("serve", JOURNAL, sha256(journal).hexdigest(), {}, {**choices, "pairs": len(pairs)}),
            )
        return len(pairs)


def _sample(folder: Path, vote: Mapping[str, Any]) -> Sample:
    chosen = PREFERRED[vote["choice"]]
    return Sample(
        key=f"vote-{vote['id']}",
        messages=parse_messages(vote["messages"]),
        images=tuple((folder / PICTURES / name).read_bytes() for name in vote["pictures"]),
        responses=tuple(Response(**response) for response in vote["responses"]),
        preference=Preference(chosen=chosen, rejected=1 - chosen),
        source=SOURCE,
        id=vote["id"],
    )


if __name__ == "__main__":
    os.nice(10)  # answers go first
    write_pairs(Path(sys.argv[1]))
