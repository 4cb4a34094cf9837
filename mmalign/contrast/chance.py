"""Random numbers that depend on the seed and on what they are for, so neither on the batch nor on what came before.

    uniforms(0, "coco-17, round 1, mask", 576)        seed_for(0, "coco-17, round 1, sentence 2")

Tests   tests/contrast/test_chance.py
"""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mmalign.data.variants import random_bits


def uniforms(seed: int, purpose: str, count: int) -> Float64[ndarray, " count"]:
    """Numbers in [0, 1).

    Args:
        seed: Of the command.
        purpose: Names the sample, and what is drawn.
        count: How many.
    """
    drawn: Float64[ndarray, " count"] = (random_bits(seed, purpose, count) >> np.uint64(11)) * 2.0**-53
    return drawn


def seed_for(seed: int, purpose: str) -> int:
    """Seed of one answer's decoding, of 32 bits."""
    return int(random_bits(seed, purpose, 1)[0] >> np.uint64(32))
