"""Pictures on the page: small, encoded anew, and never a reason to fail."""

import base64
import io
import os

import pytest
from PIL import Image

from mmalign.tools.inspection.thumbnails import thumbnail


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


@pytest.fixture(scope="module")
def noise():
    """The worst that can be compressed."""
    return Image.frombytes("RGB", (1200, 800), os.urandom(1200 * 800 * 3))


def test_a_large_picture_fits_its_budget(noise):
    found = thumbnail(encoded(noise), budget=60_000)
    assert len(found.url) <= 60_000
    assert (found.width, found.height, found.problem) == (1200, 800, "")
    assert opened(found.url).width > 160


def test_a_small_picture_stays_as_it_is(png):
    shown = opened(thumbnail(png("red"), budget=60_000).url)
    assert (shown.format, shown.size, shown.convert("RGB").getpixel((5, 5))) == ("PNG", (64, 64), (255, 0, 0))


def test_a_picture_on_its_side_is_put_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = thumbnail(encoded(Image.new("RGB", (400, 200)), exif=exif), budget=60_000)
    assert (found.width, found.height) == (200, 400)
    assert opened(found.url).size == (200, 400)


def test_nothing_of_the_file_but_its_pixels_gets_onto_the_page():
    secret = b"GPS 48.1 N <script>"
    data = encoded(Image.new("RGB", (300, 300)), comment=secret) + secret
    shown = base64.b64decode(thumbnail(data, budget=60_000).url.partition("base64,")[2])
    assert secret in data
    assert secret not in shown


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"\xff\xd8\xff broken", b"\x89PNG\r\n\x1a\nhm"])
def test_what_is_no_picture_says_why(data):
    found = thumbnail(data, budget=60_000)
    assert found.url == ""
    assert found.problem


def test_a_cut_picture_says_why(noise):
    assert "truncated" in thumbnail(encoded(noise)[:5000], budget=60_000).problem


def test_a_bomb_is_not_decoded():
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(bomb) < 30_000
    assert "pixels" in thumbnail(bomb, budget=60_000).problem


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_pillow_would_only_warn_of_is_not_decoded():
    """Between Pillow's warning and its error lie hundreds of megabytes."""
    found = thumbnail(encoded(Image.new("1", (12_000, 8_000)), "PNG"), budget=60_000)
    assert (found.url, found.problem) == ("", "12000 x 8000 pixels, 89,478,485 are the most")
