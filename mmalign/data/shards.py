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
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from mmalign.data.lineage import LINEAGE_NAME, Step, lineage_json
from mmalign.data.manifest import MANIFEST_NAME, Entry, Extent, Manifest, ShardRecord
from mmalign.data.reader import read_extent
from mmalign.data.remote import file_sha256
from mmalign.data.sample import Sample, SampleError, ShardError, check_sample

KEY_PATTERN = re.compile(r"(?!__)[A-Za-z0-9_-]{1,80}")
"""WebDataset splits names at the first dot and skips `__names__`; USTAR names end at 100 bytes."""
META_MEMBER = re.compile(r"__[^/]*__($|/)")
"""Members that WebDataset's readers skip."""
TAR_BLOCK = 512
TAR_END = 2 * TAR_BLOCK
"""Zero bytes that end a tar: where they are missing it was cut."""
OWNER = "mmalign"


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
        self._partial = folder.with_name(f".{folder.name}.partial")
        self._keys: set[str] = set()
        self._tar: TarWriter | None = None
        self._file: BinaryIO | None = None
        self._in_shard = 0
        self._shards = 0

    def __enter__(self) -> "ShardWriter":
        """Start a folder beside the one to be written."""
        if any(self.folder.glob("*.tar")) and not (self.folder / MANIFEST_NAME).exists():
            raise ShardError(
                f"{self.folder} holds tars without a manifest, which may be somebody's data. Choose another folder, "
                f"or index them with `mmalign import index {self.folder}`."
            )
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    def write(self, sample: Sample) -> None:
        """Append one sample.

        Raises:
            SampleError: Prompt and pictures disagree, a key is used twice or cannot be a file name, a picture is
                neither PNG, JPEG nor WEBP.
        """
        where = str(self.folder)
        check_sample(sample, where=where)
        if not KEY_PATTERN.fullmatch(sample.key):
            raise SampleError(f"{where}, sample {sample.key!r}: keys are 1 to 80 of A-Z a-z 0-9 _ and -. Rename it.")
        if sample.key in self._keys:
            raise SampleError(f"{where}, sample {sample.key!r}: the key is used twice. Keys of a set are unique.")
        members: dict[str, str | bytes] = {"__key__": sample.key, "json": sample.to_json().encode()}
        for number, image in enumerate(sample.images):
            suffix = image_suffix(image, where=f"{where}, sample {sample.key!r}, picture {number}")
            members[suffix if len(sample.images) == 1 else f"{number}.{suffix}"] = image
        self._keys.add(sample.key)
        self._open_shard().write(members)
        self._in_shard += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write the manifest and put all in place; after an exception, clear away."""
        self._close_shard()
        try:
            if kind is None:
                if not self._keys:
                    raise ShardError(f"{self.folder}: no sample was written, so there is nothing to put into shards.")
                write_manifest(self._partial)
                if self.lineage:
                    (self._partial / LINEAGE_NAME).write_bytes(lineage_json(self.lineage))
                self._publish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _open_shard(self) -> TarWriter:
        full = self._tar is not None and (
            self._in_shard >= self.max_samples or self._tar.tarstream.offset >= self.max_bytes
        )
        if full:
            self._close_shard()
        if self._tar is None:
            self._file = (self._partial / f"{self._shards:06d}.tar").open("wb")
            self._tar = TarWriter(self._file, user=OWNER, group=OWNER, mtime=0, encoder=False)
            self._shards += 1
            self._in_shard = 0
        return self._tar

    def _close_shard(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._tar = self._file = None

    def _publish(self) -> None:
        """Move the shards, then the manifest: a set is readable only when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / MANIFEST_NAME).exists():
            former = Manifest.load(self.folder)
            (self.folder / MANIFEST_NAME).unlink()
            for shard in former.shards:
                (self.folder / shard.name).unlink(missing_ok=True)
            (self.folder / LINEAGE_NAME).unlink(missing_ok=True)
        for path in sorted(path for path in self._partial.iterdir() if path.name != MANIFEST_NAME):
            path.replace(self.folder / path.name)
        (self._partial / MANIFEST_NAME).replace(self.folder / MANIFEST_NAME)


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
    shards, samples, shard_of = [], [], dict[str, str]()
    for number, path in enumerate(paths):
        indexed = list(index_shard(path, number))
        for entry, _ in indexed:
            if entry.key in shard_of:
                raise ShardError(
                    f"{path}, sample {entry.key!r}: the key is used twice, first in {shard_of[entry.key]}. "
                    "Keys of a set are unique: rename one, or put the tars into separate folders."
                )
            shard_of[entry.key] = path.name
        samples += indexed
        shards.append(ShardRecord(path.name, path.stat().st_size, file_sha256(path), len(indexed)))
    manifest = Manifest.build(folder, shards, samples)
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
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
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
