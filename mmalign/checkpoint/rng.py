"""Random states of a process, as plain values that need no unpickling.

Dropout does not need them: `AlignmentModule` seeds it from (seed, epoch, batch, rank). Whatever else draws does.
"""

import random
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor


class RandomState(TypedDict):
    """Of one rank."""

    python: tuple[int, list[int], float | None]
    numpy: tuple[Tensor, int, int, float]
    """Keys, position, whether a Gaussian is left over, and which."""
    torch: Tensor
    cuda: Tensor | None
    """Of this rank's device, where it has one."""


def random_state() -> RandomState:
    """What this process would draw next."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, list(words), gauss),
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: RandomState) -> None:
    """Draw next what another process would have drawn; a device's state is left out where there is no device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
