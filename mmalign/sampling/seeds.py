"""The seed of every answer: a function of the sample's id and the answer's number, and of nothing else.

    answer_seed("world/preference/describe/000000", 0) -> 3047391862

Tests   tests/sampling/test_seeds.py
"""

import zlib


def answer_seed(sample_id: str, number: int, seed: int = 0) -> int:
    """Seed of one answer, 0 to 2**32 - 1.

    Args:
        sample_id: `id` of the sample.
        number: Of the answer, from 0.
        seed: Another one gives other answers. 0 gives those of the shipped `world` shards.
    """
    prefix = f"{seed} " if seed else ""
    return zlib.crc32(f"{prefix}{sample_id} answer {number}".encode())
