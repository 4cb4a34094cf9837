"""Reading shards at random: a sample is one stretch of a tar, and every stretch is checked against the manifest.

    ShardSet("shards/mine")[7] -> Sample        ShardSet("https://host/mine")[7] -> the same, its shard fetched once

A shard that was cut, replaced or damaged is found at the first sample read from it; `verify` finds all at once.
"""

import io
import re
from hashlib import sha256
from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander

from mmalign.data.manifest import Manifest
from mmalign.data.remote import fetch, file_sha256, is_remote
from mmalign.data.sample import IMAGE_SUFFIXES, Sample, SampleError, ShardError, parse_sample

IMAGE_MEMBER = re.compile(rf"(?:(\d+)\.)?(?:{'|'.join(IMAGE_SUFFIXES)})")


class ShardSet:
    """The samples of one folder or address, by number; every read is checked against the manifest."""

    def __init__(self, location: str, *, cache: Path | None = None) -> None:
        """Load the manifest.

        Args:
            location: A folder, or an address.
            cache: Where remote shards are kept, see `Manifest.load`.
        """
        self.manifest = Manifest.load(location, cache=cache)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample: exactly its bytes.

        Raises:
            FileNotFoundError: The shard is gone.
            ShardError: The shard was cut, replaced or damaged.
            SampleError: The record is wrong.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        extent = self.manifest.extent(index)
        path = self.shard_path(extent.shard)
        with path.open("rb") as file:
            file.seek(extent.offset)
            data = file.read(extent.size)
        if sha256(data).hexdigest() != extent.sha256:
            key = self.manifest.entry(index).key
            raise ShardError(f"{path}, sample {key!r}: its bytes are not those of the manifest. {self._remedy(path)}")
        return read_extent(data, where=str(path))

    def shard_path(self, shard: int) -> Path:
        """The shard's file, fetched first where it is remote; its size is that of the manifest."""
        record = self.manifest.shards[shard]
        path = self.manifest.folder / record.name
        if is_remote(self.manifest.location) and not path.exists():
            fetch(f"{self.manifest.location.rstrip('/')}/{record.name}", path, sha256=record.sha256)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the manifest lists this shard, but it is gone. {self._remedy(path)}")
        if (size := path.stat().st_size) != record.size:
            raise ShardError(f"{path} has {size} bytes, the manifest says {record.size}. {self._remedy(path)}")
        return path

    def verify(self) -> None:
        """Hash every shard whole, and raise `ShardError` at the first that differs from the manifest."""
        for number, record in enumerate(self.manifest.shards):
            path = self.shard_path(number)
            if file_sha256(path) != record.sha256:
                raise ShardError(f"{path}: sha256 differs from the manifest, so bits are wrong. {self._remedy(path)}")

    def _remedy(self, path: Path) -> str:
        if is_remote(self.manifest.location):
            return f"Delete it; it is then fetched anew from {self.manifest.location}."
        return f"Copy it anew from its origin or, if it is right, run `mmalign import index {path.parent}`."


def read_extent(data: bytes, *, where: str) -> Sample:
    """The sample in a stretch of a tar, through WebDataset's readers.

    Raises:
        SampleError: No record, or a wrong one.
    """
    files = tar_file_expander([{"url": where, "stream": io.BytesIO(data)}])
    (members,) = group_by_keys(files)
    key = members["__key__"]
    if "json" not in members:
        raise SampleError(
            f"{where}, sample {key!r}: no {key}.json beside {sorted(m for m in members if not m.startswith('__'))}. "
            "Every sample needs its record, see shards/README.md."
        )
    numbered = {m: match for m in members if (match := IMAGE_MEMBER.fullmatch(m))}
    names = sorted(numbered, key=lambda name: int(numbered[name][1] or 0))
    expected = list(range(len(names)))
    if [int(numbered[name][1] or 0) for name in names] != expected:
        raise SampleError(
            f"{where}, sample {key!r}: pictures {names} are not numbered one by one. "
            "Name one picture `<key>.jpg`, several `<key>.0.jpg`, `<key>.1.jpg`, ..."
        )
    return parse_sample(members["json"], key=key, images=[members[name] for name in names], where=where)
