"""Perceptual hashes: the same for what looks the same, and every near pair is found."""

import io
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from mmalign.data.likeness import MAX_DISTANCE, joined, near_pairs, nearest, picture_hash

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos" / "imgs_detail"


def scene(seed, size=(400, 300)):
    """A few soft patches in colour, as different from one another as photos are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(one, other):
    return (picture_hash(one) ^ picture_hash(other)).bit_count()


@pytest.mark.parametrize("seed", range(4))
def test_another_size_kind_or_quality_looks_the_same(seed):
    picture = scene(seed)
    original = encode(picture, quality=95)
    for changed in (
        encode(picture, quality=40),
        encode(picture, "PNG"),
        encode(picture, "WEBP"),
        encode(picture.resize((200, 150))),
        encode(picture.convert("L")),
    ):
        assert changed != original
        assert distance(changed, original) <= 4


def test_other_pictures_look_otherwise():
    hashes = [picture_hash(encode(scene(seed))) for seed in range(20)]
    assert min((a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]) > MAX_DISTANCE


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real data: ../shared/data is absent")
def test_real_photos_are_told_apart_and_known_again():
    """Smaller and of lower quality they differ in 4 bits at most, from one another in 20 at least."""
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:8]]
    hashes = [picture_hash(photo) for photo in photos]
    assert min((a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]) >= 20
    for photo in photos:
        image = Image.open(io.BytesIO(photo))
        smaller = encode(image.resize((image.width // 2, image.height // 2)).convert("RGB"), quality=70)
        assert distance(smaller, photo) <= 4


def test_the_hash_is_that_of_the_library():
    """Bit by bit, where nothing is decoded to a smaller size first."""
    for seed in range(5):
        image = scene(seed)
        assert f"{picture_hash(encode(image, 'PNG')):016x}" == str(imagehash.phash(image))


def test_a_picture_is_compared_as_a_viewer_shows_it():
    """A phone writes a picture lying, and its rotation beside it."""
    picture = scene(7)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = encode(picture.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95)
    assert distance(lying, encode(picture, quality=95)) <= 2


@pytest.mark.parametrize("color", ["white", "black", (200, 30, 30)])
def test_a_plain_area_looks_like_nothing(color):
    assert picture_hash(encode(Image.new("RGB", (64, 48), color))) is None


def test_what_cannot_be_decoded_is_an_error():
    with pytest.raises(ValueError, match="cannot be decoded"):
        picture_hash(encode(scene(0), "PNG")[:2000])


@pytest.fixture(scope="module")
def hashes():
    """Random ones, and some of them again with up to ten bits changed."""
    chance = np.random.default_rng(0)
    first = chance.integers(0, 2**64, 400, dtype=np.uint64)
    again = first[chance.integers(0, 400, 300)]
    for n in range(300):
        for bit in chance.choice(64, n % 11, replace=False):
            again[n] ^= np.uint64(1) << np.uint64(bit)
    return np.concatenate([first, again])


def between(one, other):
    """All distances, one by one."""
    return np.bitwise_count(one[:, None] ^ other[None]).astype(int)


@pytest.mark.parametrize("most", range(MAX_DISTANCE + 1))
def test_every_near_pair_is_found_and_no_other(hashes, most):
    """Equal hashes are paired with the first of them, which stands for all."""
    values, first = np.unique(hashes, return_index=True)
    apart = between(values, values)
    near = np.argwhere((apart <= most) & np.triu(np.ones_like(apart, dtype=bool), 1))
    expected = {(*sorted((first[i], first[j])), apart[i, j]) for i, j in near}
    twins = {(first[np.searchsorted(values, each)], n, 0) for n, each in enumerate(hashes)}
    expected |= {twin for twin in twins if twin[0] != twin[1]}
    assert set(zip(*(each.tolist() for each in near_pairs(hashes, most)), strict=True)) == expected


@pytest.mark.parametrize("many", [0, 30, 10**6])
@pytest.mark.parametrize("at_once", [7, 10**6])
def test_groups_are_those_of_all_pairs_however_many_there_are(hashes, many, at_once, monkeypatch):
    monkeypatch.setattr("mmalign.data.likeness.MANY_PAIRS", many)
    monkeypatch.setattr("mmalign.data.likeness.COMPARED_AT_ONCE", at_once)
    groups = joined(len(hashes), near_pairs(hashes, 4))
    expected = connected_components(between(hashes, hashes) <= 4)[1]
    assert len(set(zip(groups.tolist(), expected.tolist(), strict=True))) == len(set(expected)) == len(set(groups))


@pytest.mark.parametrize("most", [0, 3, 8])
def test_the_nearest_of_another_set_is_found(hashes, most):
    own, others = hashes[:400], hashes[400:]
    apart = between(own, others)
    found = nearest(own, others, most)
    assert found.first.tolist() == np.flatnonzero(apart.min(1) <= most).tolist()
    assert found.distance.tolist() == apart.min(1)[found.first].tolist()
    assert apart[found.first, found.second].tolist() == found.distance.tolist()


def test_nothing_is_near_in_nothing():
    nothing = np.zeros(0, dtype=np.uint64)
    assert near_pairs(nothing, 4).first.size == 0
    assert nearest(nothing, np.ones(3, dtype=np.uint64), 4).first.size == 0
    assert nearest(np.ones(3, dtype=np.uint64), nothing, 4).first.size == 0
    assert joined(0, near_pairs(nothing, 4)).size == 0


@pytest.mark.parametrize("most", [-1, MAX_DISTANCE + 1])
def test_a_distance_that_says_nothing_is_refused(hashes, most):
    with pytest.raises(ValueError, match=r"must lie in 0\.\.8"):
        near_pairs(hashes, most)
