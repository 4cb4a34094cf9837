"""Real photos through the served endpoint: each gets an answer. Skipped where they are absent."""

import base64
from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos are not beside this checkout"),
]


def test_every_photo_is_answered(client, talk):
    photos = sorted(path for path in PHOTOS.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    assert len(photos) >= 25
    for photo in photos:
        kind = "png" if photo.suffix == ".png" else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(photo.read_bytes()).decode()}"
        message = talk.user(talk.picture(url), "What is this?")
        answer = client.chat.completions.create(model="dpo", messages=[message], max_tokens=3)
        assert answer.usage.completion_tokens > 0, photo.name
