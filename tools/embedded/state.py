"""The state of a training run, in one file that is always whole.

Tests   tests/world/test_train_embedded.py
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

_FILE = "state.pt"


def save_state(
    folder: Path,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: tuple[int, int],
    log: list[dict[str, Any]],
    seconds: float,
) -> None:
    """Write the state under another name, then move it into place.

    Args:
        folder: Where.
        learner: Its weights are kept.
        optimizer: Its moments are kept.
        at: Number of the stage, and steps done in it.
        log: Rows so far.
        seconds: Time spent so far.
    """
    state = {
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "at": list(at),
        "log": log,
        "seconds": seconds,
    }
    partial = folder / f"{_FILE}.partial"
    torch.save(state, partial)
    os.replace(partial, folder / _FILE)


def load_state(
    folder: Path, learner: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[int, int, list[dict[str, Any]], float]:
    """Put a saved state back, if there is one.

    Args:
        folder: Where.
        learner: Gets its weights.
        optimizer: Gets its moments, if given.

    Returns:
        Number of the stage, steps done in it, rows of the log, seconds spent.
    """
    path = folder / _FILE
    if not path.exists():
        return 0, 0, [], 0.0
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["learner"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    stage, step = state["at"]
    return stage, step, state["log"], state["seconds"]
