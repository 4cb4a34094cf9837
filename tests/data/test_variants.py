"""Variants: worked out by hand, equal for a key on every machine, and what they take away."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from mmalign.data.variants import DiffusionNoise, RandomCrop, diffusion_scales, normal, random_bits


@pytest.fixture(scope="module")
def gradient():
    """100 x 80; red says the column, green the row."""
    across, down = np.meshgrid(np.arange(100), np.arange(80))
    return Image.fromarray(np.stack([across, down, across * 0], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("variant", [RandomCrop(), DiffusionNoise()])
def test_a_picture_changes_by_seed_and_key_alone(variant, gradient):
    again, other_key = (variant(gradient, key=key) for key in ("a/b/0", "a/b/1"))
    assert again.tobytes() == variant(gradient.copy(), key="a/b/0").tobytes() != other_key.tobytes()
    other_seed = type(variant)(seed=1)
    assert other_seed(gradient, key="a/b/0").tobytes() != again.tobytes()
    assert repr(other_seed) != repr(variant), "a store of log-probabilities is named by it"
    assert again.mode == "RGB"


def test_a_crop_by_hand(gradient):
    """Of the three draws the first 53 bits count: 0.88680, 0.54440 and 0.31930.

    share of the area   0.01 + 0.19 * 0.88680 = 0.17849, square root 0.42248
    width and height    100 * 0.42248 = 42, 80 * 0.42248 = 34
    left and top        0.54440 * (100 - 42 + 1) = 32.1, 0.31930 * (80 - 34 + 1) = 15.01
    """
    assert random_bits(0, "000000.tar/a/0", 3).tolist() == [
        16358493466691057984,
        10042457759131042858,
        5890089775641162898,
    ]
    crop = np.asarray(RandomCrop()(gradient, key="000000.tar/a/0"))
    assert crop.shape == (34, 42, 3)
    assert crop[0, 0].tolist() == [32, 15, 0]


def test_crops_have_the_asked_share_of_the_area_everywhere(gradient):
    """400 of them: shares from end to end, equally often; every corner of the picture is reached."""
    crops = [np.asarray(RandomCrop()(gradient, key=str(number))) for number in range(400)]
    shares = np.array([crop.shape[0] * crop.shape[1] / 8000 for crop in crops])
    assert 0.008 < shares.min() < 0.02
    assert 0.19 < shares.max() < 0.205
    assert abs(shares.mean() - 0.105) < 0.01
    corners = np.array([(*crop[0, 0, :2], *crop[-1, -1, :2]) for crop in crops])
    assert corners.min(0)[:2].max() <= 1
    assert corners.max(0)[2:].tolist() == [99, 79]


def test_a_crop_of_all_is_the_picture_and_one_of_little_is_a_pixel(gradient):
    assert RandomCrop(min_area=1.0, max_area=1.0)(gradient, key="a").tobytes() == gradient.tobytes()
    assert RandomCrop(min_area=1e-6, max_area=1e-6)(gradient, key="a").size == (1, 1)


def test_the_schedule_is_povids():
    """By hand at the start: beta_0 = sigmoid(-6) * 0.00499 + 0.00001 = 0.0024726 * 0.00499 + 0.00001 = 2.2338e-5.

    sqrt(1 - 2.2338e-5) = 0.999989 and sqrt(2.2338e-5) = 0.004726. At 500 of 1000 the trapezoid rule sums the betas to
    0.00499 * (999 / 12 * (ln(1 + e**0.006) - ln(1 + e**-6)) + 0.252) + 501e-5 = 0.2944, and exp(-0.2944) = 0.7450.
    """
    assert diffusion_scales(0) == (0.999989, 0.004726)
    kept, added = diffusion_scales(500)
    assert kept**2 == pytest.approx(np.exp(-0.2944), abs=1e-3)
    assert kept**2 + added**2 == pytest.approx(1, abs=3e-6)
    assert diffusion_scales(500) == (0.863017, 0.505175)
    assert diffusion_scales(999) == (0.285042, 0.958515)


def test_the_normal_numbers_are_one_fixed_table():
    """Lowest 16 bits first. 0xFFFF is the largest, 0x7FFF the last below 0, 0x8000 the first above it, 0 the least."""
    assert normal(np.array([0x0000_8000_7FFF_FFFF], dtype=np.uint64)).tolist() == pytest.approx(
        [4.324919, -0.000019, 0.000019, -4.324919]
    )
    table = normal(np.arange(2**16, dtype=np.uint64))[::4]
    assert (table.mean(dtype=float), table.std(dtype=float)) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=2e-5))
    digest = hashlib.sha256(np.rint(table.astype(float) * 1e6).astype("<i4").tobytes()).hexdigest()
    assert digest.startswith("d1b267a82fe107fb")


def test_noise_by_hand():
    """Pixels 0, 128, 255; 0, 128, 255 and six normal numbers, from two words of 64 bits.

    128: 0.863017 * 128 + 0.505175 * 255 * 0.202386 = 110.466 + 26.071 = 137
    255: 0.863017 * 255 - 0.505175 * 255 * 1.218410 = 220.069 - 156.954 = 63
    0: below 0, clipped to 0
    """
    numbers = normal(random_bits(0, "a", 2))[:6]
    assert numbers.tolist() == pytest.approx([-0.449726, 0.202386, -1.21841, -1.241719, 0.184615, -1.961769])
    noised = DiffusionNoise()(Image.new("RGB", (2, 1), (0, 128, 255)), key="a")
    assert np.asarray(noised).tolist() == [[[0, 137, 63], [0, 134, 0]]]


def test_noise_grows_with_the_steps(gradient):
    distances = [
        np.abs(np.asarray(DiffusionNoise(steps=steps)(gradient, key="a"), dtype=float) - np.asarray(gradient)).mean()
        for steps in (0, 100, 500, 999)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 2


@pytest.mark.parametrize(
    ("variant", "settings", "words"),
    [
        (RandomCrop, {"min_area": 0.0}, "0 < min_area <= max_area <= 1"),
        (RandomCrop, {"min_area": 0.3}, "0 < min_area <= max_area <= 1"),
        (RandomCrop, {"max_area": 1.1}, "0 < min_area <= max_area <= 1"),
        (DiffusionNoise, {"steps": 1000}, "0 to 999, got 1000"),
        (DiffusionNoise, {"steps": -1}, "0 to 999, got -1"),
    ],
)
def test_impossible_settings_are_refused(variant, settings, words):
    with pytest.raises(ValueError, match=words):
        variant(**settings)
