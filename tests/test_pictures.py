"""Pictures: prepared as transformers prepares them; one that cannot be decoded is named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign.processor import load_processor, open_image, pixel_values


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


def a_picture(width, height, seed=0):
    """Coarse and fine structure in colour."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    fine = chance.integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(coarse, dtype=np.int64) + fine).clip(0, 255).astype(np.uint8))


@pytest.fixture
def prepare(tiny_llava):
    """`prepare(image, size=64, crop=64, pad=True)`: our pixels, and those of transformers' processor on Pillow."""
    processor = load_processor(tiny_llava)

    def make(image, *, size=64, crop=64, pad=True):
        settings = {"size": {"shortest_edge": size}, "crop_size": {"height": crop, "width": crop}, "do_pad": pad}
        processor.image_processor = LlavaImageProcessorPil(**settings)
        return pixel_values(processor, [image]), processor.image_processor([image], return_tensors="pt")["pixel_values"]

    return make


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("shape", [(64, 64), (64, 50), (40, 64), (90, 64), (64, 91)])
def test_pixels_that_need_no_resizing_are_those_of_transformers(prepare, shape, pad):
    """To float32 rounding: what is left is padding, cropping and the two constants of each colour."""
    image = a_picture(*shape)
    if (max(shape) if pad else min(shape)) == 64:
        ours, theirs = prepare(image, pad=pad)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("crop", [64, 51])
@pytest.mark.parametrize("shape", [(640, 480), (427, 640), (333, 334), (100, 160), (30, 20), (64, 64), (1, 9)])
def test_resized_pixels_are_those_of_transformers_but_for_rounding(prepare, shape, crop, pad):
    """Bicubic on torch, as transformers' default processor; the one on Pillow rounds one value in fifty otherwise."""
    ours, theirs = prepare(a_picture(*shape), crop=crop, pad=pad)
    assert ours.shape == theirs.shape
    levels = ((ours - theirs) * 255 * torch.tensor([0.2686, 0.2613, 0.2758])[:, None, None]).abs()
    assert levels.max() < 3.1
    assert (levels > 0.1).float().mean() < 0.02


def test_a_picture_of_many_blocks_is_prepared_as_any_other(prepare, monkeypatch):
    """Pillow shares its memory where a picture is one block; a larger one is copied."""
    image = a_picture(200, 150)
    shared, _ = prepare(image)
    monkeypatch.setattr("mmalign.processor.ONE_BLOCK", 0)
    copied, _ = prepare(image)
    assert copied.equal(shared)
    monkeypatch.undo()
    huge = Image.new("RGB", (2500, 2000), (9, 200, 60))
    assert torch.unique(prepare(huge, pad=False)[0]).numel() == 3


def test_preparing_leaves_the_picture_as_it_was(prepare):
    image = a_picture(64, 64)
    before = image.tobytes()
    prepare(image)
    assert image.tobytes() == before


def test_a_way_of_resizing_that_is_not_ours_is_refused(tiny_llava, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_llava)
    processor.image_processor.resample = Image.Resampling.LANCZOS
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"resizes with `resample` 1; .*bicubic.*preprocessor_config\.json"):
        load_processor(str(tmp_path))
