"""Pictures that records name: in a folder, a .zip or a .tar; checked to be whole without being decoded, and copied.

    pictures = Pictures(Path("coco.zip"))
    pictures.read("train2017/000000033471.jpg")       -> the bytes as they lie there
    pictures.read("./work/of/theirs/000000033471.jpg") -> the same: found as `000000033471.jpg`, see `Pictures.read`
    check_picture(row["image"]["bytes"], where="row 7") -> the same bytes, or UnreadableError

Tests   tests/data/importers/test_pictures.py
"""

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

from mmalign.data.importers import UnreadableError
from mmalign.data.reader import read_whole
from mmalign.pictures import check_whole

MAX_PICTURE_BYTES = 64 * 2**20
"""A larger file is no picture for a model; it is refused before it is read."""
LATEST_FOLDERS = 4096
"""Of which it is known whether they lie within the place: to find that out costs as much as to read a picture."""
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
LONGEST_NAME = 1024
NAME_SHOWN = 120
"""Characters of a name in a message: some files hold whole pictures where a name should stand."""


class Pictures:
    """The pictures of one place. Threads may read at the same time; nothing is ever extracted."""

    def __init__(self, place: Path) -> None:
        """Open it; of an archive, the list of its members is read.

        Args:
            place: A folder, a .zip or an uncompressed .tar, told by content.

        Raises:
            FileNotFoundError: Nothing there.
            ValueError: A file that is no such archive, or a damaged one.
        """
        self.place = place
        self._source = _open(place)

    def read(self, name: str) -> bytes:
        """Bytes of the picture that a record names.

        The name is looked for below the place, then without its first parts, because published files often keep the
        paths of the machine they were made on: `/work/imgs/a.jpg` is found as `imgs/a.jpg` or `a.jpg`, and of
        `../imgs/a.jpg` what stands behind the last `..` counts. So no name leads out of the place, and neither does a
        link.

        Args:
            name: As it stands in the record.

        Raises:
            UnreadableError: No such picture there, or not a whole PNG, JPEG or WEBP of a usable size.
        """
        shown = name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}..."
        for candidate in _candidates(name):
            data = self._source.read(candidate)
            if data is not None:
                return check_picture(data, where=f"{self.place}/{candidate}")
        raise UnreadableError(f"no picture {shown} in {self.place}")


def check_picture(data: bytes, where: str) -> bytes:
    """The bytes themselves, if they are a whole picture.

    Args:
        data: Encoded.
        where: File, or file and row, for the message.

    Raises:
        UnreadableError: Neither PNG, JPEG nor WEBP; cut; or too large to be decoded safely.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise UnreadableError(_too_large(where))
    try:
        check_whole(data)
    except ValueError as error:
        raise UnreadableError(f"{where}: the picture cannot be decoded ({error})") from error
    return data


@runtime_checkable
class _Source(Protocol):
    """Where pictures lie."""

    def read(self, name: str) -> bytes | None:
        """Bytes of a file; None where there is no such file, `UnreadableError` where it must not or cannot be read."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = root.resolve()
        self._is_inside = lru_cache(LATEST_FOLDERS)(lambda folder: folder.resolve().is_relative_to(self._real))

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return None
            if not self._is_inside((path.resolve() if path.is_symlink() else path).parent):
                raise UnreadableError(
                    f"{path} is a link that leads out of {self.root}: name the folder it leads to with `--images`"
                )
            if found.st_size > MAX_PICTURE_BYTES:
                raise UnreadableError(_too_large(str(path)))
            with path.open("rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise UnreadableError(f"{path} cannot be read ({error})") from error
        except UnicodeEncodeError:  # half a character, which no name of a file can hold
            return None


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        members = (member for member in archive.infolist() if not member.is_dir())
        self.members = {_plain(member.filename): member for member in members}

    def read(self, name: str) -> bytes | None:
        member = self.members.get(name)
        if member is None:
            return None
        try:
            with self.archive.open(member) as file:
                return file.read(min(member.file_size, MAX_PICTURE_BYTES) + 1)  # its size, as it says, may be a lie
        except (OSError, RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            # RuntimeError: encrypted, or (NotImplementedError) packed in a way that Python does not know
            raise UnreadableError(f"{self.archive.filename}/{name} cannot be unpacked ({error})") from error


class _Stretch(NamedTuple):
    """Where the bytes of a tar's member lie."""

    offset: int
    size: int


class _Tar:
    def __init__(self, path: Path, members: Mapping[str, _Stretch]) -> None:
        self.path = path
        self.members = members

    def read(self, name: str) -> bytes | None:
        stretch = self.members.get(name)
        if stretch is None:
            return None
        if stretch.size > MAX_PICTURE_BYTES:
            raise UnreadableError(_too_large(f"{self.path}/{name}"))
        try:
            with self.path.open("rb", buffering=0) as file:  # of its own: threads share no position
                file.seek(stretch.offset)
                return read_whole(file, stretch.size)
        except OSError as error:
            raise UnreadableError(f"{self.path}/{name} cannot be read ({error})") from error


def _open(place: Path) -> _Source:
    if place.is_dir():
        return _Folder(place)
    if not place.is_file():
        raise FileNotFoundError(
            f"{place}: no such folder or archive of pictures. Give a folder, a .zip or a .tar (`--images`)."
        )
    try:
        if zipfile.is_zipfile(place):
            return _Zip(zipfile.ZipFile(place))
        return _Tar(place, dict(_members(place)))
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(
            f"{place} is neither a folder nor a whole .zip or uncompressed .tar ({error}). A compressed tar cannot be "
            "read at random: unpack it, and give the folder."
        ) from error


def _members(path: Path) -> Iterator[tuple[str, _Stretch]]:
    """Plain files of a tar; a hard link is the file that it links to, which stands before it."""
    found = dict[str, _Stretch]()
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # or it keeps them all, at 1 kB each
            name = _plain(member.name)
            if member.isreg() and not member.issparse():
                found[name] = _Stretch(member.offset_data, member.size)
            elif member.islnk() and _plain(member.linkname) in found:
                found[name] = found[_plain(member.linkname)]
    yield from found.items()


def _too_large(where: str) -> str:
    return f"{where}: more than {MAX_PICTURE_BYTES >> 20} MiB, which is no picture for a model"


def _plain(name: str) -> str:
    """`./a/b.jpg` -> `a/b.jpg`."""
    return "/".join(part for part in PurePosixPath(name).parts if part != "/")


def _candidates(name: str) -> Iterator[str]:
    """`/x/../a/b.jpg` -> `a/b.jpg`, `b.jpg`."""
    if len(name) > LONGEST_NAME or "\0" in name:
        return
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    for start in range(len(parts)):
        yield "/".join(parts[start:])
