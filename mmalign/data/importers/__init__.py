"""Other people's files -> samples. What cannot be used is named, with the reason; nothing is left out in silence.

An importer yields `Sample | Skipped`, one for each record of its file:

    read_nlvr(Path("nlvr/dev")) -> Sample(key="1572-0", ...), Skipped("31-2", "no picture images/3/dev-31-2-0.png"), ...
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmalign.processor import open_image


class Skipped(NamedTuple):
    """A record that cannot be used."""

    name: str
    reason: str


class UnreadableError(ValueError):
    """Why a record cannot be used; its importer turns it into `Skipped`."""


def load_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list or of JSON lines.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Neither of both, or not a file of objects; the message names the place.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file to import. `mmalign import --help` shows what each format reads."
        )
    text = path.read_text(encoding="utf-8")
    try:
        records = json.loads(text) if text.lstrip().startswith("[") else list(map(json.loads, text.splitlines()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is neither a JSON list nor JSON lines: {error}. Check that it is whole.") from error
    strange = next((number for number, record in enumerate(records) if not isinstance(record, dict)), None)
    if strange is not None:
        raise ValueError(f"{path}: record {strange} is no JSON object but {records[strange]!r:.60}. Take it out.")
    return list(records)


def read_picture(name: str, folder: Path) -> bytes:
    """Bytes of a picture that a record names, checked to be one.

    The name is looked for below the folder, then without its first parts, because published files often keep the
    paths of the machine they were made on: `./work/imgs/a.jpg` is found as `imgs/a.jpg` or `a.jpg`.

    Args:
        name: As it stands in the record.
        folder: Where the pictures lie.

    Raises:
        UnreadableError: No such picture, or it cannot be decoded.
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    candidates = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UnreadableError(f"no picture {name} in {folder}")
    data = path.read_bytes()
    try:
        open_image(data, where=str(path))
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    return data
