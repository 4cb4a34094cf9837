"""Pictures of folders and archives: found by name, never outside their place, whole or refused, copied as they are."""

import io
import os
import struct
import tarfile
import zipfile
import zlib

import pytest
from PIL import Image

from mmalign.data.importers import UnreadableError
from mmalign.data.importers.pictures import MAX_PICTURE_BYTES, Pictures, check_picture
from mmalign.pictures import check_whole


def encode(kind="PNG", size=(40, 30), **options):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def with_header(width, height):
    """A PNG that says it has so many pixels: a few bytes that would take gigabytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encode()[33:]


def with_thumbnail():
    """A JPEG with another one, whole, in its EXIF block, as cameras write it."""
    exif = Image.Exif()
    exif[0x010E] = encode("JPEG", (16, 12)).decode("latin-1")
    data = encode("JPEG", exif=exif.tobytes() + encode("JPEG", (16, 12)))
    assert data.count(b"\xff\xd9") > 1
    return data


PICTURES = {"a.png": encode(), "deep/er/b.jpg": encode("JPEG"), "deep/c.webp": encode("WEBP")}


def as_folder(place):
    for name, data in PICTURES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def as_zip(place):
    with zipfile.ZipFile(place.with_suffix(".zip"), "w") as archive:
        for name, data in PICTURES.items():
            archive.writestr(name, data)
    return place.with_suffix(".zip")


def as_tar(place, prefix="./"):
    with tarfile.open(place.with_suffix(".tar"), "w") as archive:
        for name, data in PICTURES.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("same.png")
        link.type, link.linkname = tarfile.LNKTYPE, "./a.png"
        archive.addfile(link)
        outside = tarfile.TarInfo("outside.png")
        outside.type, outside.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(outside)
    return place.with_suffix(".tar")


@pytest.fixture(params=[as_folder, as_zip, as_tar], ids=["folder", "zip", "tar"])
def pictures(request, tmp_path):
    return Pictures(request.param(tmp_path / "pictures"))


def test_a_picture_is_copied_byte_by_byte(pictures):
    for name, data in PICTURES.items():
        assert pictures.read(name) == data


@pytest.mark.parametrize(
    "name",
    [
        "/of/theirs/deep/er/b.jpg",
        "./work/er/../deep/er/b.jpg",
        "../../deep/er/b.jpg",
        "//deep/er/b.jpg",
        "x/deep/er/b.jpg",
    ],
)
def test_paths_of_another_machine_are_found_by_their_last_parts(pictures, name):
    assert pictures.read(name) == PICTURES["deep/er/b.jpg"]


@pytest.mark.parametrize(
    "name",
    ["b.jpg", "deep", "", ".", "/", "deep/../er/b.jpg", "gone.png", "a" * 300, "a/" * 300, "\ud800.png", "a\0.png"],
    ids=lambda name: ascii(name)[:20],
)
def test_what_is_not_there_is_named(pictures, name):
    with pytest.raises(UnreadableError, match=r"^no picture ") as refusal:
        pictures.read(name)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["../secret.png", "/../secret.png", "x/../../secret.png", "{}/secret.png"])
def test_no_name_leads_out_of_a_place(tmp_path, pictures, name):
    (tmp_path / "secret.png").write_bytes(encode())
    with pytest.raises(UnreadableError, match=r"no picture .*secret\.png in"):
        pictures.read(name.format(tmp_path))


def test_no_link_leads_out_of_a_folder(tmp_path):
    """Neither one of a file nor one of a folder; those within are followed."""
    folder = as_folder(tmp_path / "pictures")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(encode())
    (folder / "file.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "within.png").symlink_to(folder / "a.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    pictures = Pictures(folder)
    for name in ("file.png", "folder/secret.png"):
        with pytest.raises(UnreadableError, match=rf"{name} is a link that leads out of .*--images"):
            pictures.read(name)
    assert pictures.read("within.png") == PICTURES["a.png"]
    with pytest.raises(UnreadableError, match="no picture"):
        pictures.read("circle.png")
    (tmp_path / "also").symlink_to(folder)
    assert Pictures(tmp_path / "also").read("a.png") == PICTURES["a.png"]


def test_links_of_a_tar_are_followed_to_its_own_members_only(tmp_path):
    pictures = Pictures(as_tar(tmp_path / "pictures"))
    assert pictures.read("same.png") == PICTURES["a.png"]
    with pytest.raises(UnreadableError, match="no picture"):
        pictures.read("outside.png")


def test_what_is_no_file_is_no_picture(tmp_path):
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableError, match="no picture"):
        Pictures(tmp_path).read("pipe.png")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08"])
def test_another_kind_of_file_is_refused_as_a_place(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.tar\.gz is neither a folder nor a whole \.zip .* unpack it"):
        Pictures(tmp_path / "x.tar.gz")


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder or archive of pictures.*--images"):
        Pictures(tmp_path / "gone")


def test_a_damaged_member_is_named(tmp_path):
    place = as_zip(tmp_path / "pictures")
    data = bytearray(place.read_bytes())
    data[200] ^= 1
    place.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"pictures\.zip/a\.png cannot be unpacked \(Bad CRC-32"):
        Pictures(place).read("a.png")


def test_a_member_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("mmalign.data.importers.pictures.MAX_PICTURE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encode() + bytes(1 << 20))
    with pytest.raises(UnreadableError, match=r"a\.png: more than 1 MiB"):
        Pictures(tmp_path / "bomb.zip").read("a.png")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    with pytest.raises(UnreadableError, match=r"a\.png: more than 64 MiB"):
        Pictures(tmp_path).read("a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("behind", [b"", bytes(9), b"trailing"])
def test_a_whole_picture_passes_whatever_stands_behind_it(kind, behind):
    data = encode(kind) + behind
    assert check_picture(data, where="here") is data


def test_every_kind_of_jpeg_passes():
    for options in ({"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}, {"comment": b"\xff\xd9"}):
        check_whole(encode("JPEG", **options))
    check_whole(with_thumbnail())
    check_whole(encode("JPEG").replace(b"\xff\xdb", b"\xff\xff\xdb", 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_picture_is_refused(kind, kept):
    data = encode(kind)
    with pytest.raises(UnreadableError, match=r"^here: the picture cannot be decoded \("):
        check_picture(data[: int(len(data) * kept)], where="here")


def test_a_cut_jpeg_is_refused_though_its_thumbnail_is_whole():
    with pytest.raises(UnreadableError, match="the JPEG is cut short"):
        check_picture(with_thumbnail()[:-200], where="here")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"<html>not found</html>", "neither PNG, JPEG nor WEBP, it begins with b'<html>no'"),
        (encode("GIF"), "neither PNG, JPEG nor WEBP"),
        (with_header(20_000, 20_000), "decompression bomb"),
        (with_header(10_000, 10_000), "decompression bomb"),
        (with_header(0, 5), "header cannot be read|cut short"),
        (encode()[:100] + b"\0" + encode()[101:], "cut short or damaged"),
    ],
    ids=["empty", "text", "gif", "bomb", "smaller bomb", "no pixels", "bit"],
)
def test_a_hostile_picture_is_refused_without_being_decoded(data, words, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(UnreadableError, match=words):
        check_picture(data, where="here")


def test_a_picture_of_too_many_pixels_is_told_how_many():
    with pytest.raises(ValueError, match=r"^40 x 30 pixels, and 1,000 are the most"):
        check_whole(encode(), max_pixels=1000)
