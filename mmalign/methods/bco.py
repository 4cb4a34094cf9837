"""BCO: a classifier of good and bad answers whose logit is the reward, less a running shift.

Paper   Jung et al., 2024, https://arxiv.org/abs/2404.04656
Config  configs/bco.yaml
Tests   tests/losses/test_bco.py, tests/methods/test_running_values.py
"""

import math
from typing import Any

from torch import Tensor

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.bco import bco_loss
from mmalign.methods.base import PairMethod
from mmalign.metrics import RunningMean


class BCO(PairMethod):
    """Binary Classifier Optimization on pairs.

    The shift is the mean reward of the steps before, over all their ranks and micro-batches: so it is the same however
    a step is cut. It begins at 0, which is the mean reward at the reference.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = RunningMean()

    @property
    def loss_at_reference(self) -> float:
        """The log of 2 for either answer."""
        return 2 * math.log(2)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return bco_loss(policy=policy, reference=reference, beta=self.beta, shift=self.shift.value)

    def after_step(self, means: dict[str, Tensor]) -> None:
        self.shift.update((means["chosen_rewards"] + means["rejected_rewards"]) / 2)
