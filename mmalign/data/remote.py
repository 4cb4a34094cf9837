"""Remote files, fetched once: `http://`, `gs://` and all else that WebDataset's `gopen` opens."""

import hashlib
import os
import shutil
from pathlib import Path

from filelock import FileLock
from webdataset.gopen import gopen

from mmalign.data.sample import ShardError


def is_remote(location: str) -> bool:
    """Whether it is an address and not a folder."""
    return "://" in location


def cached_folder(location: str, cache: Path | None = None) -> Path:
    """Folder in which the files of an address are kept.

    Args:
        location: The address of a shard set.
        cache: Its parent; `$XDG_CACHE_HOME/mmalign/shards` if None.
    """
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmalign" / "shards"
    location = location.rstrip("/")
    return root / f"{location.rsplit('/', 1)[-1]}-{hashlib.sha256(location.encode()).hexdigest()[:12]}"


def fetch(url: str, path: Path, *, sha256: str | None = None) -> None:
    """Fetch a file beside its place, check it, and move it there; at most one process fetches, the others wait.

    Args:
        url: What to fetch.
        path: Where to keep it.
        sha256: What it must hash to, if that is known.

    Raises:
        ShardError: It cannot be fetched, or is not what it should be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        partial = path.with_name(f".{path.name}.partial")
        try:
            with gopen(url) as stream, partial.open("wb") as file:
                shutil.copyfileobj(stream, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{url} cannot be fetched ({error}). Check the address in `data.shards` and the network, or copy the "
                "shards to a folder and name that."
            ) from error
        if sha256 is not None and (found := file_sha256(partial)) != sha256:
            raise ShardError(
                f"{url} hashes to {found[:12]}..., its manifest says {sha256[:12]}...: it was cut on the way or has "
                f"changed since. Run again; if that does not help, delete {path.parent}: then all is fetched anew."
            )
        partial.replace(path)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
