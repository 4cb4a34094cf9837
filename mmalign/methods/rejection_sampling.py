"""Rejection sampling: learn the best of the model's own answers, by the judge's ratings.

Paper   Li et al., 2024, section 3.2, https://arxiv.org/abs/2402.10884
Config  configs/rejection_sampling.yaml
Tests   tests/losses/test_sft.py, tests/methods/test_answer_methods.py
"""

from mmalign.methods.base import AnswerMethod


class RejectionSampling(AnswerMethod):
    """SFT on the best of K answers, which the view `BestOfN` chooses."""
