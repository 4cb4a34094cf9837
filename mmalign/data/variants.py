"""Variants: a changed picture for the same answer, the same for a key on every machine and in every epoch.

    data:
      view:
        class_path: mmalign.data.views.ImagePairs
        init_args:
          variant: {class_path: mmalign.data.variants.RandomCrop, init_args: {max_area: 0.2}}

Random numbers are the raw output of PCG64, which NumPy keeps for ever, keyed by the variant's seed and the picture's
key. What follows uses `+ - * /`, square roots and rounding, which are exact everywhere, and constants that are rounded
before the last bits, in which the `exp` and `log` of two machines may differ.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from statistics import NormalDist

import numpy as np
from jaxtyping import Float32, UInt64
from numpy import ndarray
from PIL import Image

DIFFUSION_STEPS = 1000
QUANTILE_BITS = 16
DECIMALS = 6
"""Of the constants of the noise."""


class Variant(ABC):
    """Picture -> picture; a frozen dataclass whose `repr` says all that it depends on besides the key."""

    @abstractmethod
    def __call__(self, image: Image.Image, *, key: str) -> Image.Image:
        """Change one picture.

        Args:
            image: RGB.
            key: `shard/sample/number` of the picture; what is random is drawn from it and from the variant's seed.
        """


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Variant):
    """A small part of the picture, which the processor then enlarges: most of what the answer is about is gone (mDPO).

    Wang et al., 2024, https://arxiv.org/abs/2406.11839: 1 to 20 % of the area. The part keeps the picture's shape;
    the authors' code also changes that, by up to 4:3.
    """

    min_area: float = 0.01
    """Smallest share of the area, above 0."""
    max_area: float = 0.2
    """Largest share of the area, at most 1; shares in between are equally likely."""
    seed: int = 0
    """Of the draws, which also depend on the picture's key."""

    def __post_init__(self) -> None:
        """Raise where there is no such part."""
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"RandomCrop takes a share of the area with 0 < min_area <= max_area <= 1, got {self.min_area} and "
                f"{self.max_area}. mDPO has 0.01 and 0.2."
            )

    def __call__(self, image: Image.Image, *, key: str) -> Image.Image:
        area, across, down = (random_bits(self.seed, key, 3) >> np.uint64(11)) * 2.0**-53  # 53 bits: below 1
        share = self.min_area + (self.max_area - self.min_area) * area
        width, height = (max(1, round(side * math.sqrt(share))) for side in image.size)
        left, top = int(across * (image.width - width + 1)), int(down * (image.height - height + 1))
        return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True, kw_only=True)
class DiffusionNoise(Variant):
    """The picture some steps into a diffusion process, where the model guesses from habit what it shows (POVID).

        beta_k    = sigmoid(-6 + 12 k / 999) * (0.5e-2 - 1e-5) + 1e-5,   k = 0 .. 999
        alpha_bar = (1 - beta_0) (1 - beta_1) ... (1 - beta_steps)
        noised    = sqrt(alpha_bar) * pixels + sqrt(1 - alpha_bar) * normal,   pixels in [0, 1]

    Zhou et al., 2024, https://arxiv.org/abs/2402.11411, Sec. 3.2; the schedule is that of its code. What leaves [0, 1]
    is clipped.
    """

    steps: int = 500
    """Into the process, 0 to 999; POVID has 500."""
    seed: int = 0
    """Of the noise, which also depends on the picture's key."""

    def __post_init__(self) -> None:
        """Raise where the process has no such step."""
        if not 0 <= self.steps < DIFFUSION_STEPS:
            raise ValueError(f"DiffusionNoise has steps from 0 to 999, got {self.steps}. POVID has 500.")

    def __call__(self, image: Image.Image, *, key: str) -> Image.Image:
        pixels = np.asarray(image, dtype=np.float32)
        kept, added = diffusion_scales(self.steps)
        noised = normal(random_bits(self.seed, key, -(-pixels.size // 4)))[: pixels.size].reshape(pixels.shape)
        noised *= np.float32(255 * added)
        noised += np.float32(kept) * pixels
        return Image.fromarray(np.rint(noised, out=noised).clip(0, 255).astype(np.uint8))


def random_bits(seed: int, key: str, count: int) -> UInt64[ndarray, " count"]:
    """Random 64-bit words that depend on the seed and the key alone.

    Args:
        seed: Of the variant.
        key: Of the picture.
        count: How many.
    """
    words = np.frombuffer(sha256(key.encode()).digest(), dtype="<u4").tolist()
    bits: UInt64[ndarray, " count"] = np.random.PCG64(np.random.SeedSequence([seed, *words])).random_raw(count)
    return bits


def normal(bits: UInt64[ndarray, " words"]) -> Float32[ndarray, " fourfold"]:
    """Four standard normal numbers of each 64-bit word: a quantile for each of its 16-bit parts, the lowest first.

    The 65,536 quantiles, rounded to six decimals, are one fixed table: equal on every machine, cut at 4.3.
    """
    numbers: Float32[ndarray, " fourfold"] = _quantiles()[bits.astype("<u8").view("<u2")]
    return numbers


def diffusion_scales(steps: int) -> tuple[float, float]:
    """What pixels and noise are multiplied by, see `DiffusionNoise`."""
    alpha_bar = 1.0
    for k in range(steps + 1):
        position = -6 + 12 * k / (DIFFUSION_STEPS - 1)
        alpha_bar *= 1 - ((0.5e-2 - 1e-5) / (1 + math.exp(-position)) + 1e-5)
    return round(math.sqrt(alpha_bar), DECIMALS), round(math.sqrt(1 - alpha_bar), DECIMALS)


@cache
def _quantiles() -> Float32[ndarray, " parts"]:
    """Quantiles of the standard normal distribution at the middles of 2**16 equal parts."""
    parts = 2**QUANTILE_BITS
    values = [round(NormalDist().inv_cdf((part + 0.5) / parts), DECIMALS) for part in range(parts)]
    return np.array(values, dtype=np.float32)
