"""Random numbers are functions of seed and purpose."""

import numpy as np

from mmalign.contrast.chance import seed_for, uniforms


def test_the_same_purpose_draws_the_same_and_others_draw_others():
    assert (uniforms(0, "a", 3) == uniforms(0, "a", 3)).all()
    assert len({seed_for(seed, purpose) for seed in range(3) for purpose in "abc"}) == 9


def test_a_seed_has_32_bits():
    assert all(0 <= seed_for(0, str(i)) < 2**32 for i in range(100))


def test_uniforms_are_uniform():
    """20,000 draws: mean and deviation within four standard errors."""
    drawn = uniforms(1, "many", 20_000)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 20_000)
    assert abs(drawn.std() - np.sqrt(1 / 12)) < 0.005


def test_the_numbers_are_fixed_for_ever():
    """Golden: another number would give other answers for the same seed."""
    assert seed_for(0, "coco-17, round 1, sentence 2") == 3271003619
