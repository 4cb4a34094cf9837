"""Shards: plain WebDataset tars, written deterministically and indexed.

    folder/000000.tar    scene7.jpg scene7.json scene8.0.png scene8.1.png scene8.json ...
    folder/000001.tar
    folder/manifest.arrow

Format    shards/README.md
Tests     tests/data/test_shards.py, tests/data/test_faults.py
"""

import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from webdataset.tariterators import base_plus_ext

from mmalign.data.lineage import LINEAGE_NAME, Step, lineage_json
from mmalign.data.manifest import MANIFEST_NAME, Entry, EntryTable, Extent, Manifest, ShardRecord
from mmalign.data.reader import read_extent
from mmalign.data.remote import file_sha256
from mmalign.data.replacing import REPORTS, put_in_place, settle
from mmalign.data.sample import Sample, SampleError, ShardError, parse_sample
from mmalign.pictures import picture_kind

KEY_PATTERN = re.compile(r"(?!__)[A-Za-z0-9_-]{1,80}")
"""WebDataset splits names at the first dot and skips `__names__`; USTAR names end at 100 bytes."""
META_MEMBER = re.compile(r"__[^/]*__($|/)")
"""Members that WebDataset's readers skip."""
TAR_BLOCK = 512
TAR_END = 2 * TAR_BLOCK
"""Zero bytes that end a tar: where they are missing it was cut."""
OWNER = "mmalign"
MODE = 0o444
BLOCK = 4 << 20
"""Bytes that go to the disk at once, in a thread: in smaller ones, threads would wait for each other at every call."""
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


class ShardWriter:
    """Writes samples into shards and, at the end, the manifest; after a failure nothing of it is there.

        with ShardWriter(Path("shards/mine")) as writer:
            writer.write(Sample(key="scene7", messages=..., images=(jpeg,)))

    The same samples give the same bytes, on every machine and day.
    """

    lineage: tuple[Step, ...] = ()
    """Set it before the end of the `with`: it is written beside the manifest."""

    def __init__(self, folder: Path, *, max_samples: int = 10_000, max_bytes: int = 256 << 20) -> None:
        """Remember where to.

        Args:
            folder: Where the shards shall lie. A shard set that is there is replaced, once the new one is whole.
            max_samples: Samples of one shard, at most.
            max_bytes: Size at which a shard is closed; the last sample may go beyond it.
        """
        self.folder = folder
        self.max_samples = max_samples
        self.max_bytes = max_bytes
        self._real = folder.resolve() if folder.is_symlink() else folder
        """Where it is a link, what it points at is replaced."""
        self._partial, self._former = (self._real.with_name(f".{self._real.name}.{s}") for s in ("partial", "former"))
        self._keys: set[str] = set()
        self._open: _OpenShard | None = None
        self._disk = ThreadPoolExecutor(2)  # a shard is looked at while the next is written
        self._closed: list[Future[ShardRecord]] = []
        self._table = EntryTable()

    def __enter__(self) -> "ShardWriter":
        """Start a folder beside the one to be written.

        Raises:
            ShardError: Tars without a manifest are there, or a damaged manifest.
        """
        if self._former.is_dir() and not self._real.exists():
            self._former.rename(self._real)  # a process was killed while it replaced this set
        settle(self._former, self._real)
        if (self.folder / MANIFEST_NAME).exists():
            Manifest.load(self.folder)  # it says what may be replaced
        elif any(self.folder.glob("*.tar")):
            raise ShardError(
                f"{self.folder} holds tars without a manifest, which may be somebody's data. Choose another folder, "
                f"or index them with `mmalign import index {self.folder}`."
            )
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    def write(self, sample: Sample) -> None:
        """Append one sample, which is read back from its record as training will read it.

        Raises:
            SampleError: Prompt and pictures disagree, a key is used twice or cannot be a file name, a picture is
                neither PNG, JPEG nor WEBP.
        """
        where = str(self.folder)
        if not KEY_PATTERN.fullmatch(sample.key):
            raise SampleError(f"{where}, sample {sample.key!r}: keys are 1 to 80 of A-Z a-z 0-9 _ and -. Rename it.")
        if sample.key in self._keys:
            raise SampleError(f"{where}, sample {sample.key!r}: the key is used twice. Keys of a set are unique.")
        members = {"json": sample.to_json().encode()}
        entry = Entry.of(parse_sample(members["json"], key=sample.key, images=sample.images, where=where))
        for number, image in enumerate(sample.images):
            suffix = image_suffix(image, where=f"{where}, sample {sample.key!r}, picture {number}")
            members[suffix if len(sample.images) == 1 else f"{number}.{suffix}"] = image
        self._keys.add(sample.key)
        shard = self._open_shard()
        offset, data = shard.size, tar_members(sample.key, members)
        shard.append(data)
        extent = Extent(len(self._closed), offset, len(data), sha256(data).hexdigest())
        shard.extents.append((offset, shard.size))
        self._table.add(entry, extent)

    def beside(self, name: str) -> Path:
        """Where to write a file that goes into place together with the shards; one of `REPORTS`."""
        assert name in REPORTS, f"{name} would outlive the set it is about"
        return self._partial / name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write the manifest and put all in place; after an exception, clear away."""
        try:
            if kind is None:
                self._close_shard()
                shards = [closed.result() for closed in self._closed]
                if not self._keys:
                    raise ShardError(f"{self.folder}: no sample was written, so there is nothing to put into shards.")
                table = self._table.finish()
                Manifest(shards, table, folder=self._partial, location=str(self._partial)).save()
                if self.lineage:
                    self.beside(LINEAGE_NAME).write_bytes(lineage_json(self.lineage))
                put_in_place(self._partial, self._real, self._former)
        finally:
            self._disk.shutdown()
            if self._open is not None:
                self._open.file.close()
            shutil.rmtree(self._partial, ignore_errors=True)

    def _open_shard(self) -> "_OpenShard":
        full = self._open is not None and (
            len(self._open.extents) >= self.max_samples or self._open.size >= self.max_bytes
        )
        if full:
            self._close_shard()
        if self._open is None:
            self._open = _OpenShard(self._partial / f"{len(self._closed):06d}.tar", self._disk)
        return self._open

    def _close_shard(self) -> None:
        if self._open is not None:
            if self._closed:
                self._closed[-1].result()  # one at a time: else a slow disk would be ever further behind
            shard, self._open = self._open, None
            self._closed.append(self._disk.submit(shard.close))


class _OpenShard:
    """A shard on its way to the disk: hashed while it is written, its structure looked at when it is whole."""

    def __init__(self, path: Path, disk: ThreadPoolExecutor) -> None:
        self.path = path
        self.size = 0
        self.extents: list[tuple[int, int]] = []
        self.file = path.open("wb")
        self._hash = sha256()
        self._disk = disk
        self._block: list[bytes] = []
        self._started = 0
        """Size at which the block began."""
        self._written: Future[None] | None = None

    def append(self, data: bytes) -> None:
        """Take bytes; what the disk says to them is heard a block later, or at the close."""
        self._block.append(data)
        self.size += len(data)
        if self.size - self._started >= BLOCK:
            self._await()
            self._written = self._disk.submit(self._write, self._block)
            self._block, self._started = [], self.size

    def close(self) -> ShardRecord:
        """End the tar as Python's `tarfile` does, and find in the file what was put there."""
        with self.file:
            self._await()
            end = bytes(TAR_END + -(self.size + TAR_END) % tarfile.RECORDSIZE)
            self.size += len(end)
            self._write([*self._block, end])
            self.file.flush()
            os.fsync(self.file.fileno())
        if self.path.stat().st_size != self.size or scan(self.path) != self.extents:
            raise ShardError(f"{self.path}: the disk does not hold what was written. Check it, and write the set anew.")
        return ShardRecord(self.path.name, self.size, self._hash.hexdigest(), len(self.extents))

    def _await(self) -> None:
        if self._written is not None:
            self._written.result()

    def _write(self, pieces: list[bytes]) -> None:
        block = b"".join(pieces)
        self.file.write(block)
        self._hash.update(block)


def tar_members(key: str, members: Mapping[str, bytes]) -> bytes:
    """A sample as it lies in a shard, byte by byte what WebDataset's `TarWriter` writes.

    Args:
        key: Of the sample.
        members: Content by what stands behind the key and its dot: `json`, `jpg`, `0.png`.
    """
    pieces = list[bytes]()
    for name in sorted(members):
        data = members[name]
        info = tarfile.TarInfo(f"{key}.{name}")
        info.size, info.mode, info.uname, info.gname = len(data), MODE, OWNER, OWNER
        pieces += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % TAR_BLOCK)]
    return b"".join(pieces)


def write_manifest(folder: Path) -> Manifest:
    """Index the tars that lie in a folder, ours or others', and write the manifest.

    Raises:
        FileNotFoundError: No tars.
        ShardError: An empty or cut tar, a key used twice.
        SampleError: A record that is no sample.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no *.tar to index. Compressed tars cannot be read at random: unpack them.")
    shards, table, shard_of = list[ShardRecord](), EntryTable(), dict[str, str]()
    for number, path in enumerate(paths):
        before = len(shard_of)
        for entry, extent in index_shard(path, number):
            if entry.key in shard_of:
                raise ShardError(
                    f"{path}, sample {entry.key!r}: the key is used twice, first in {shard_of[entry.key]}. "
                    "Keys of a set are unique: rename one, or put the tars into separate folders."
                )
            shard_of[entry.key] = path.name
            table.add(entry, extent)
        shards.append(ShardRecord(path.name, path.stat().st_size, file_sha256(path), len(shard_of) - before))
    manifest = Manifest(shards, table.finish(), folder=folder, location=str(folder))
    manifest.save()
    return manifest


def index_shard(path: Path, number: int) -> Iterator[tuple[Entry, Extent]]:
    """Every sample of one tar and where it lies, each read as training will read it."""
    extents = scan(path)
    if not extents:
        raise ShardError(f"{path}: the shard holds no sample. Delete it or write it anew.")
    with path.open("rb") as file:
        for offset, end in extents:
            file.seek(offset)
            data = file.read(end - offset)
            yield (
                Entry.of(read_extent(data, where=str(path))),
                Extent(number, offset, end - offset, sha256(data).hexdigest()),
            )


def image_suffix(data: bytes, *, where: str) -> str:
    """`png`, `jpg` or `webp`, by content.

    Raises:
        SampleError: None of these.
    """
    kind = picture_kind(data)
    if kind is not None:
        return SUFFIXES[kind]
    raise SampleError(f"{where}: neither PNG, JPEG nor WEBP (it begins with {data[:8]!r}). Convert the picture.")


def scan(path: Path) -> list[tuple[int, int]]:
    """(offset, end) of every sample of a tar; a cut one is found, however cleanly it was cut."""
    remedy = "Write or fetch it anew."
    if path.stat().st_size == 0:
        raise ShardError(f"{path}: the shard is empty (0 bytes). {remedy}")
    extents, keys, last, end = list[tuple[int, int]](), set[str](), None, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
                key = base_plus_ext(member.name)[0] if member.isreg() else None
                if key is None or META_MEMBER.match(member.name):
                    continue
                if key == last:
                    extents[-1] = (extents[-1][0], end)
                elif key in keys:
                    raise ShardError(f"{path}, sample {key!r}: the key is used twice. Keys of a shard are unique.")
                else:
                    extents.append((member.offset, end))
                keys.add(key)
                last = key
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a whole tar ({error}): it was cut or damaged. {remedy}") from error
    with path.open("rb") as file:
        file.seek(end)
        if file.read(TAR_END) != bytes(TAR_END):
            raise ShardError(f"{path}: no end mark behind byte {end}: the tar was cut. {remedy}")
    return extents
