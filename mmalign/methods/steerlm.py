"""SteerLM: learn every judged answer behind a prompt that says its ratings; at inference, ask for the best.

Paper   Dong et al., 2023, https://arxiv.org/abs/2310.05344; on images Li et al., 2024, https://arxiv.org/abs/2402.10884
Config  configs/steerlm.yaml (the paper's suffix), configs/steerlm_nemo.yaml (NeMo-Aligner's form)
Tests   tests/losses/test_sft.py, tests/methods/test_answer_methods.py, tests/test_steering.py
"""

from mmalign.methods.base import AnswerMethod


class SteerLM(AnswerMethod):
    """SFT on answers behind their own attributes, which the view `Steer` writes into the prompts."""
