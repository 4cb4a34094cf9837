"""Results on disk as they come, one a line, so that a command that was stopped goes on where it was.

Beside the lines `identity.json` says what the results depend on; those of other models or settings are never mixed in.

Tests   tests/data/test_records.py
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from mmalign.data.manifest import write_whole

IDENTITY_FILE = "identity.json"


@runtime_checkable
class Record(Protocol):
    """A named tuple with an id, all of whose fields JSON can hold."""

    @property
    def id(self) -> str:
        """Of the sample, or of whatever a line is about; a later line of the same id counts."""

    def _asdict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Record)


class RecordFile(Generic[R]):
    """The lines of one command; one process writes them."""

    def __init__(
        self,
        path: Path,
        kind: Callable[..., R],
        identity: Mapping[str, str],
        *,
        overwrite: bool = False,
        identity_file: str = IDENTITY_FILE,
    ) -> None:
        """Open a file, and take up the records it has already.

        Args:
            path: Its folder is made if it is not there.
            kind: The record's class.
            identity: All that a record depends on besides its id: hashes of model and adapter, decoding, settings.
            overwrite: Drop records of another identity, or of none, instead of refusing to go on.
            identity_file: Name of the file that holds the identity; of its own where several commands share a folder.

        Raises:
            ValueError: The folder holds records of another identity, or of none, or a damaged line.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _claim(path, path.with_name(identity_file), dict(identity), overwrite=overwrite)
        _drop_torn_line(path)
        found = read_records(path, kind) if path.exists() else []
        self.records = {record.id: record for record in found}

    def append(self, records: Sequence[R]) -> None:
        """Add records; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, records))
            file.flush()
            os.fsync(file.fileno())
        self.records |= {record.id: record for record in records}

    def replace(self, records: Sequence[R]) -> None:
        """Have the file hold these records, in their order; whole or not at all."""
        write_whole(self.path, "".join(map(_line, records)).encode())
        self.records = {record.id: record for record in records}


def read_records(path: Path, kind: Callable[..., R]) -> list[R]:
    """The records of a file, in the order in which they were written; half a line at the end is left out.

    Args:
        path: Written by a `RecordFile`.
        kind: The record's class.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A line is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}. The command that writes this folder makes it: run that first."
        )
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(kind(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: damaged ({error}). Delete the line and run the command that wrote it again."
            ) from error
    return records


def _line(record: Record) -> str:
    return json.dumps(record._asdict(), ensure_ascii=False) + "\n"


def _claim(path: Path, identity_path: Path, identity: dict[str, str], *, overwrite: bool) -> None:
    """Make the folder ours, or refuse where it holds the results of other settings, or somebody else's."""
    found = json.loads(identity_path.read_text(encoding="utf-8")) if identity_path.is_file() else None
    if found == identity:
        return
    if found is not None and not overwrite:
        differing = sorted(name for name in {*found, *identity} if found.get(name) != identity.get(name))
        raise ValueError(
            f"{path.parent} holds the results of other settings: {', '.join(differing)} differ. Give another "
            "folder, go back to those settings, or drop what is there with `--overwrite true`."
        )
    if found is None and path.exists() and not overwrite:
        raise ValueError(
            f"{path} is there, and no {identity_path.name} beside it says what it was made of. Give another folder, or "
            "drop it with `--overwrite true`."
        )
    path.unlink(missing_ok=True)
    write_whole(identity_path, f"{json.dumps(identity, indent=2)}\n".encode())


def _drop_torn_line(path: Path) -> None:
    """A killed run may leave half a line; the next line must not be glued to it."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
