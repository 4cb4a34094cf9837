"""Lineage: what a shard set was made of, step by step, in `lineage.json` beside the manifest.

    [{"command": "import nlvr", "made_from": "nlvr/dev.json", "hash": "9f2c...", "settings": {...}, "counts": {...}},
     {"command": "sample", "made_from": "shards/nlvr", "hash": "77ab...", ...},
     {"command": "judge", "made_from": "shards/sampled", "hash": "0e1d...", ...}]

Every command that makes shards of shards copies the steps so far and adds its own. No time and no machine is in it, so
the same command on the same data gives the same bytes; no secret either.

Tests   tests/data/test_lineage.py
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmalign.data.manifest import Manifest
from mmalign.data.remote import is_remote
from mmalign.data.sample import ShardError

LINEAGE_NAME = "lineage.json"


class Step(NamedTuple):
    """One command that made a shard set."""

    command: str
    """As it is called, without options: `import llava`, `sample`, `judge`."""
    made_from: str
    """File, folder or address that it read."""
    hash: str
    """Of what it read: the manifest's, or the file's sha256."""
    settings: Mapping[str, Any] = {}
    """What the result depends on, model and judge included, in JSON's types."""
    counts: Mapping[str, int | float] = {}
    """What came of it: samples, answers, invalid ones, tokens, cost."""


def lineage_of(manifest: Manifest) -> tuple[Step, ...]:
    """The steps that made a shard set, the oldest first; none where nobody wrote them down, or where it is remote.

    Raises:
        ShardError: The file is damaged.
    """
    path = manifest.folder / LINEAGE_NAME
    if is_remote(manifest.location) or not path.is_file():
        return ()
    try:
        return tuple(Step(**record) for record in json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ShardError(
            f"{path}: damaged ({error}). Delete it: shards are whole without, only their origin is lost."
        ) from error


def without_secret(location: str) -> str:
    """`https://me:key@host/shards` -> `https://host/shards`; a folder or a name as it is."""
    return re.sub(r"(?<=://)[^/?#]*@", "", location)


def lineage_json(steps: Sequence[Step]) -> bytes:
    """The file's content."""
    return f"{json.dumps([step._asdict() for step in steps], indent=1, ensure_ascii=False)}\n".encode()
