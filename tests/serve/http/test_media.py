"""Data URLs: what is a picture, and what is refused with which words."""

import asyncio
import base64
import io
import random
import struct
import threading
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from mmalign.processor import open_image
from mmalign.serve.http import media
from mmalign.serve.http.media import off_loop, picture_bytes_of


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture_bytes(url: str, *, where: str) -> bytes:
    (data,) = picture_bytes_of([(where, url)])
    return data


def png_of_size(width: int, height: int, *, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A PNG whose header claims this size, with hardly any data: a bomb's shape."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 99 if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_with(extra: bytes) -> bytes:
    """A JPEG with further segments behind its first marker."""
    data = encode(Image.new("RGB", (8, 8)), "jpeg")
    return data[:2] + extra + data[2:]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "image/jpg", "image/webp", "IMAGE/PNG"])
def test_the_content_counts_not_the_declared_kind(kind, mime):
    data = encode(Image.new("RGB", (5, 4), "red"), kind)
    assert picture_bytes(as_url(data, mime), where="here") == data


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_every_usual_mode_and_shape_reaches_the_library(mode, size):
    data = encode(Image.new(mode, size), "png")
    assert open_image(picture_bytes(as_url(data), where="here"), where="here").size == size


def test_base64_is_the_same_in_slices(monkeypatch):
    monkeypatch.setattr(media, "BASE64_SLICE", 8)
    for size in range(1, 9):
        data = encode(Image.new("RGB", (size, 1)), "png")
        assert picture_bytes(as_url(data), where="here") == data


def test_a_cmyk_jpeg_is_a_picture():
    assert picture_bytes(as_url(encode(Image.new("CMYK", (9, 9)), "jpeg")), where="here")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/x.png",
        "HTTPS://example.com/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "../x.png",
        "ftp://example.com/x.png",
        "data:,hello",
        "data:text/plain;base64,aGVsbG8=",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "data:image/png,iVBORw0KGgo=",
        "data:image/png;charset=utf-8;base64,iVBORw0KGgo=",
        " data:image/png;base64,iVBORw0KGgo=",
        "x" * 10_000_000,
    ],
)
def test_anything_but_a_data_url_of_a_picture_is_refused(url):
    with pytest.raises(ValueError, match=r"^messages\.0: pictures are taken as data URLs only"):
        picture_bytes(url, where="messages.0")


@pytest.mark.parametrize("size", [4, media.BASE64_SLICE])
@pytest.mark.parametrize(
    "text", ["!!!!", "abc", "iVBO Rw0K", "iVBO\nRw0K", "ÄÖÜß", "aGk=aGk=", "aGk==", "a===", "===="]
)
def test_base64_is_strict(text, size, monkeypatch):
    monkeypatch.setattr(media, "BASE64_SLICE", size)
    with pytest.raises(ValueError, match="not valid base64"):
        picture_bytes(f"data:image/png;base64,{text}", where="here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%PDF-1.4",
        b"\x89PNG\r\n\x1a\n",
        encode(Image.new("RGB", (5, 5)), "gif"),
        encode(Image.new("RGB", (5, 5)), "bmp"),
        encode(Image.new("RGB", (5, 5)), "tiff"),
        encode(Image.new("RGB", (5, 5)), "eps"),
    ],
    ids=["empty", "text", "pdf", "png-head", "gif", "bmp", "tiff", "eps"],
)
def test_other_content_is_refused(data):
    with pytest.raises(ValueError, match="no PNG, JPEG or WebP picture"):
        picture_bytes(as_url(data), where="here")


@pytest.mark.parametrize("size", [(8193, 1), (1, 8193), (6000, 6000), (13_000, 13_000), (60_000, 60_000)])
def test_a_huge_picture_is_refused_before_it_is_decoded(size):
    with pytest.raises(ValueError, match=r"\d+ x \d+ pixels; at most|no PNG, JPEG or WebP"):
        picture_bytes(as_url(png_of_size(*size)), where="here")


def test_a_heavy_picture_is_refused_before_base64_is_decoded(monkeypatch):
    monkeypatch.setattr(media, "MAX_PICTURE_BYTES", 2**20)
    with pytest.raises(ValueError, match="1 MiB at most"):
        picture_bytes("data:image/png;base64," + "A" * 1_500_000, where="here")


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_is_refused(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="animated"):
        picture_bytes(as_url(data), where="here")


def test_a_phones_two_frame_jpeg_is_a_photo():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "mpo", save_all=True, append_images=frames[1:])
    assert picture_bytes(as_url(data, "image/jpeg"), where="here") == data


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_damage_gets_our_words_only(kind):
    """Cut anywhere or with bytes flipped, a picture decodes or is refused; no other error and no decoder's words."""
    rng = random.Random(0)
    whole = encode(Image.effect_noise((40, 40), 50).convert("RGB"), kind)
    for _ in range(100):
        data = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            picture_bytes(as_url(bytes(data)), where="here")
        except ValueError as error:
            assert str(error).startswith("here: the picture") or str(error).startswith("here: this is no")  # noqa: PT017


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("size", [(1, 1), (1, 8192), (8192, 1)])
def test_the_smallest_and_the_longest_pictures_are_pictures(kind, size):
    """A picture of one pixel has killed another server's engine (CVE-2026-22773)."""
    data = encode(Image.new("RGB", size, "red"), kind)
    assert open_image(picture_bytes(as_url(data), where="here"), where="here").size == size


@pytest.mark.parametrize("orientation", range(10))
def test_a_turned_photo_is_a_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("RGB", (6, 4)), "jpeg", exif=exif)
    size = (4, 6) if orientation in (5, 6, 7, 8) else (6, 4)
    assert open_image(picture_bytes(as_url(data), where="here"), where="here").size == size


BOMBS = {
    "compressed text": lambda: png_of_size(
        4, 4, extra=b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(b"\0" * 900_000)) for i in range(100))
    ),
    "one huge compressed text": lambda: png_of_size(
        4, 4, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 2**26))
    ),
    "international text": lambda: png_of_size(
        4, 4, extra=chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"\0" * 2**26))
    ),
    "colour profile": lambda: png_of_size(4, 4, extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 2**26))),
    "a million chunks": lambda: png_of_size(4, 4, extra=chunk(b"teSt", b"") * 600_000),
    "a million texts": lambda: png_of_size(4, 4, extra=chunk(b"tEXt", b"k\0a") * 500_000),
    "pixels beyond its size": lambda: png_of_size(4, 4, pixels=b"\0" * 2**26),
    "comments": lambda: jpeg_with(b"\xff\xfe\0\2" * 2_000_000),
    "segments": lambda: jpeg_with(b"\xff\xe5\0\2" * 2_000_000),
    "filling": lambda: jpeg_with(b"\xff" * 8_000_000),
    "scans": lambda: many_scans(200_000),
}
"""Small files that would cost a decoder minutes or gigabytes; made when they are used."""


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes, comes again and again; each goes over all pixels."""
    data = encode(Image.new("RGB", (1000, 1000), "red"), "jpeg", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_little_and_gets_our_words(bomb):
    data = BOMBS[bomb]()
    assert len(data) <= media.MAX_PICTURE_BYTES, "else it is refused for that"
    url = as_url(data)
    tracemalloc.start()
    started = time.process_time()
    try:
        picture_bytes(url, where="here")
    except ValueError as error:
        assert str(error).startswith(("here: the picture", "here: this is no"))  # noqa: PT017
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 150 * 2**20
    assert time.process_time() - started < 5


def test_ordinary_progressive_and_restarted_jpegs_have_few_parts():
    noise = Image.effect_noise((1500, 1000), 80).convert("RGB")
    for options in ({"progressive": True}, {"restart_marker_blocks": 1}, {"quality": 100, "subsampling": 0}):
        assert picture_bytes(as_url(encode(noise, "jpeg", **options)), where="here")


def test_pictures_of_one_request_are_bounded_together(monkeypatch):
    monkeypatch.setattr(media, "MAX_TOTAL_PIXELS", 100)
    url = as_url(encode(Image.new("RGB", (7, 7)), "png"))
    assert len(picture_bytes_of([("a", url), ("b", url)])) == 2
    with pytest.raises(ValueError, match=r"^c: with this picture the request has more than"):
        picture_bytes_of([("a", url), ("b", url), ("c", url)])


def test_few_pictures_are_decoded_at_once():
    running, most = 0, 0
    lock = threading.Lock()

    def check() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def run() -> None:
        await asyncio.gather(*(off_loop(check) for _ in range(10)))

    asyncio.run(run())
    assert most == media.MAX_CHECKED_AT_ONCE
