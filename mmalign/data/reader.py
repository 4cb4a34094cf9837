"""Reading shards at random: a sample is one stretch of a tar, and every stretch is checked against the manifest.

    ShardSet("shards/mine")[7] -> Sample        ShardSet("https://host/mine")[7] -> the same, its shard fetched once

`check` looks, before the first step, whether every shard is there and as large as the manifest says; a flipped bit is
found in the sample that has it, when that is read; `verify` reads all and finds all.
"""

import io
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from webdataset.tariterators import group_by_keys, tar_file_expander

from mmalign.data import reading
from mmalign.data.cache import GB, Wanted, keep, opened
from mmalign.data.manifest import Extent, Manifest, ShardRecord
from mmalign.data.remote import Remote, file_sha256, is_remote, size_of
from mmalign.data.sample import IMAGE_SUFFIXES, GoneError, Place, Sample, SampleError, ShardError, parse_sample

IMAGE_MEMBER = re.compile(rf"(?:(\d+)\.)?(?:{'|'.join(IMAGE_SUFFIXES)})")
ASKED_AT_A_TIME = 16
"""Remote shards whose size is asked for at the same time."""


class ShardSet:
    """The samples of one folder or address, by number; every read is checked against the manifest."""

    def __init__(self, location: str, remote: Remote | None = None) -> None:
        """Load the manifest.

        Args:
            location: A folder, or an address.
            remote: How remote shards are read; the defaults if None.
        """
        self.remote = remote or Remote()
        self.manifest = Manifest.load(location, self.remote)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample: exactly its bytes.

        Raises:
            GoneError: The shard is gone.
            ShardError: The shard was cut, replaced or damaged, or cannot be read.
            SampleError: The record is wrong. Each of these says in `place` which sample it was.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        extent, key = self.manifest.extent(index), self.manifest.key(index)
        try:
            return self._read(extent, key)
        except (SampleError, ShardError, GoneError) as error:
            error.place = Place(self.manifest.shards[extent.shard].name, key)
            raise

    def check(self) -> list[str]:
        """What is wrong with its shards, as far as names and sizes say; remote ones are asked for, not fetched.

        Raises:
            ShardError: A remote shard is not what the manifest says, or cannot be asked for.
        """
        if self.is_remote:
            self._check_remote()
            return []
        return [fault for record in self.manifest.shards if (fault := self._fault(record))]

    def verify(self) -> None:
        """Hash every shard whole, and raise `ShardError` at the first that differs from the manifest."""
        for number, record in enumerate(self.manifest.shards):
            path = self.shard_path(number)
            if file_sha256(path) != record.sha256:
                raise ShardError(f"{path}: sha256 differs from the manifest, so bits are wrong. {self._remedy(path)}")

    def shard_path(self, shard: int) -> Path:
        """The shard's file, fetched first where it is remote; its size is that of the manifest.

        Raises:
            GoneError: It is gone.
            ShardError: It has another size, is no file, or cannot be fetched.
        """
        record = self.manifest.shards[shard]
        path = self.manifest.folder / record.name
        if self.is_remote:
            keep(self._wanted(record), self.remote)
        if fault := self._fault(record):
            raise (ShardError if path.exists() else GoneError)(fault)
        return path

    @property
    def is_remote(self) -> bool:
        """Whether its shards are fetched."""
        return is_remote(self.manifest.location)

    def _read(self, extent: Extent, key: str) -> Sample:
        record = self.manifest.shards[extent.shard]
        path = self.manifest.folder / record.name
        where = f"{path}, sample {key!r}"
        reading.begin(where)
        with self._open(record) as file:
            try:
                file.seek(extent.offset)
                data = read_whole(file, extent.size)
            except OSError as error:
                raise ShardError(f"{where}: the disk cannot read it ({error}). {self._remedy(path)}") from error
        if sha256(data).hexdigest() != extent.sha256:
            raise ShardError(
                f"{where}: its bytes are not those of the manifest{self._cut(record)}. {self._remedy(path)}"
            )
        return read_extent(data, where=str(path))

    @contextmanager
    def _open(self, record: ShardRecord) -> Iterator[BinaryIO]:
        path = self.manifest.folder / record.name
        if self.is_remote:
            with opened(self._wanted(record), self.remote) as file:
                yield file
            return
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise GoneError(self._gone(path)) from error
        except OSError as error:
            raise ShardError(f"{path} cannot be opened ({error}). {self._remedy(path)}") from error
        with file:
            yield file

    def _wanted(self, record: ShardRecord) -> Wanted:
        url = f"{self.manifest.location.rstrip('/')}/{record.name}"
        return Wanted(url, self.manifest.folder / record.name, record.size, record.sha256)

    def _fault(self, record: ShardRecord) -> str:
        """What is wrong with a local shard; empty where nothing is."""
        path = self.manifest.folder / record.name
        try:
            found = path.stat()
        except FileNotFoundError:
            return self._gone(path)
        if not stat.S_ISREG(found.st_mode):
            return f"{path} is no file. {self._remedy(path)}"
        if found.st_size != record.size:
            return f"{path} has {found.st_size} bytes, the manifest says {record.size}. {self._remedy(path)}"
        return ""

    def _check_remote(self) -> None:
        missing = [record for record in self.manifest.shards if self._fault(record)]
        largest = max((record.size for record in self.manifest.shards), default=0)
        if largest > self.remote.cache_gb * GB:
            raise ShardError(
                f"{self.manifest.location}: a shard of {largest / GB:.3g} GB does not fit `data.cache_gb` of "
                f"{self.remote.cache_gb:g}. Raise it."
            )
        pool = ThreadPoolExecutor(ASKED_AT_A_TIME)
        try:
            sizes = pool.map(lambda record: size_of(self._wanted(record).url, self.remote), missing)
            for record, size in zip(missing, sizes, strict=True):
                if size is not None and size != record.size:
                    raise ShardError(
                        f"{self._wanted(record).url} has {size} bytes, its manifest says {record.size}: one of them "
                        f"has changed. Delete {self.manifest.folder}, then both are fetched anew; if that does not "
                        "help, the manifest at the address is of another state: index the shards there."
                    )
        finally:
            pool.shutdown(cancel_futures=True)  # one that fails, after all its tries, is enough

    def _cut(self, record: ShardRecord) -> str:
        try:
            size = (self.manifest.folder / record.name).stat().st_size
        except FileNotFoundError:  # gone since it was read
            return ""
        return "" if size == record.size else f" ({record.name} has {size} bytes, it should have {record.size})"

    def _gone(self, path: Path) -> str:
        return f"{path}: the manifest lists this shard, but it is gone. {self._remedy(path)}"

    def _remedy(self, path: Path) -> str:
        if self.is_remote:
            return f"Delete it; it is then fetched anew from {self.manifest.location}."
        return f"Copy it anew from its origin or, if it is right, run `mmalign import index {path.parent}`."


def read_whole(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or all there are: one read without a buffer may give fewer."""
    data = bytearray()
    while piece := file.read(size - len(data)):
        data += piece
        reading.beat()
    return bytes(data)


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
