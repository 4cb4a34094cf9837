"""Data URLs: what is a picture, and what is refused with which words."""

import base64
import io
import random
import struct
import zlib

import pytest
from PIL import Image

from mmalign.processor import open_image
from mmalign.serve import media
from mmalign.serve.media import picture_bytes


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, with hardly any data: a bomb's shape."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


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


@pytest.mark.parametrize("text", ["!!!!", "abc", "iVBO Rw0K", "iVBO\nRw0K", "ÄÖÜß", "aGk=aGk="])
def test_base64_is_strict(text):
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
