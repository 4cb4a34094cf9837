"""SFT: learn the answers of one named source.

Config  configs/sft.yaml
Tests   tests/losses/test_sft.py, tests/methods/test_answer_methods.py
"""

from mmalign.methods.base import AnswerMethod


class SFT(AnswerMethod):
    """Supervised fine-tuning; the view `Gold` names the source, another model's answers in the paper's baseline."""
