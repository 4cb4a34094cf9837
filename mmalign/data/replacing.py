"""A shard set in the place of a former one: at every moment one of the two is there whole, under one name or another.

    settle(former, folder)                   what a killed process left undone
    put_in_place(new, folder, former)        folder -> former, new -> folder, what others laid there -> folder

Between the two renames nothing has the folder's name; the former set lies whole at `former`, the new one at `new`.

Tests   tests/data/test_replacing.py
"""

import shutil
from pathlib import Path

from mmalign.data.lineage import LINEAGE_NAME
from mmalign.data.manifest import MANIFEST_NAME, Manifest

SKIPPED_NAME, LIKENESS_NAME = "skipped.jsonl", "likeness.json"
REPORTS = (LINEAGE_NAME, SKIPPED_NAME, LIKENESS_NAME)
"""What may lie beside a manifest, and goes with the set that it is about."""


def put_in_place(new: Path, folder: Path, former: Path) -> None:
    """Rename a whole set to its place, and clear away the one that was there.

    Args:
        new: A folder with a whole set.
        folder: Its place; perhaps a set lies there, perhaps others' files.
        former: Where that is laid meanwhile; nothing lies there.
    """
    if folder.is_dir() and any(folder.iterdir()):
        folder.rename(former)
    new.rename(folder)
    settle(former, folder)


def settle(former: Path, folder: Path) -> None:
    """Take what others laid beside a former set, such as notes, over to the new one; drop the rest.

    Killed at any moment and called again, it goes on: the manifest, by which a set's own files are told, goes last.

    Args:
        former: See `put_in_place`; nothing is done where there is none.
        folder: The new set; nothing is done where there is none.
    """
    if not former.is_dir() or not folder.is_dir():
        return
    if (former / MANIFEST_NAME).is_file():
        for name in (*(shard.name for shard in Manifest.load(former).shards), *REPORTS, MANIFEST_NAME):
            (former / name).unlink(missing_ok=True)
    for path in former.iterdir():
        if not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(former)
