"""Pictures that cannot be decoded: one error, which says where they stand."""

import io
import struct
import zlib

import pytest
from PIL import Image

from mmalign.processor import open_image


def encode(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def with_short_chunk() -> bytes:
    """A PNG whose resolution is cut short within a chunk that is otherwise right: `open` lets a ValueError out."""
    body = b"pHYs" + bytes(2)
    data = encode("png")
    end_of_header = 8 + 25
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    return data[:end_of_header] + chunk + data[end_of_header:]


def with_damaged(chunk: bytes) -> bytes:
    """A PNG with zeros where this chunk's data begin."""
    data = encode("png")
    start = data.index(chunk) + 4
    return data[:start] + bytes(8) + data[start + 8 :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encode("gif"),
        encode("jpeg")[:400],
        encode("webp")[:400],
        encode("png")[:400],
        with_damaged(b"IHDR"),
        with_damaged(b"IDAT"),
        with_short_chunk(),
    ],
    ids=["empty", "text", "gif", "jpeg-cut", "webp-cut", "png-cut", "png-header", "png-pixels", "png-short-chunk"],
)
def test_a_broken_picture_is_named(data):
    with pytest.raises(ValueError, match=r"^s001, picture 0: the picture cannot be decoded \(.*Replace it, or take"):
        open_image(data, where="s001, picture 0")


@pytest.mark.parametrize(
    "error", [TypeError, EOFError, IndexError, OverflowError, ValueError, struct.error, zlib.error]
)
@pytest.mark.parametrize("step", ["PIL.Image.open", "PIL.ImageOps.exif_transpose"])
def test_whatever_a_decoder_raises_the_place_is_named(monkeypatch, error, step):
    def fail(*_, **__):
        raise error("boom")

    data = encode("png")
    monkeypatch.setattr(step, fail)
    with pytest.raises(ValueError, match=r"^here: the picture cannot be decoded \(boom\)"):
        open_image(data, where="here")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_whole_picture_is_rgb(kind):
    assert (opened := open_image(encode(kind), where="here")).size == (40, 30)
    assert opened.mode == "RGB"
