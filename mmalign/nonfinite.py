"""Optimizer steps whose loss or gradient is not a number: left out on all ranks, named, and after a few the end.

Tests    tests/methods/test_nonfinite.py, tests/test_zero3.py
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from lightning import LightningModule
from torch import Tensor

from mmalign.sharding import discard_gradients, gradients_of

_LOG = logging.getLogger(__name__)

FOLDER = "nonfinite"
"""In the run's directory: the rows of each step that was left out."""


class FiniteSteps:
    """Watches the micro-batches of an optimizer step, and decides what becomes of it."""

    def __init__(self, limit: int) -> None:
        """Begin with no step left out.

        Args:
            limit: Steps in a row that end the run.
        """
        self.limit = limit
        self.left_out = 0
        """Steps in a row, up to the last one."""
        self._seen: list[tuple[list[str], Tensor]] = []

    def see(self, keys: list[str], finite: Bool[Tensor, ""]) -> None:
        """Remember a micro-batch.

        Args:
            keys: Of its rows.
            finite: Whether its loss is a number; nobody waits for the device to know.
        """
        self._seen.append((keys, finite))

    def check(self, module: LightningModule) -> None:
        """Before the optimizer steps: have the step left out where a rank has found something. All ranks must call it.

        Raises:
            FloatingPointError: It is the last step in a row that may be left out.
        """
        seen, self._seen = self._seen, []
        losses = torch.stack([finite for _, finite in seen]).all()
        gradients = torch.nn.utils.get_total_norm(gradients_of(module)).isfinite()
        here = torch.stack([~losses, ~(losses & gradients)]).float()
        bad_losses, bad = module.trainer.strategy.reduce(here, reduce_op="sum").tolist()
        self.left_out = self.left_out + 1 if bad else 0
        if not bad:
            return
        discard_gradients(module)
        what = "loss" if bad_losses else "gradient"
        keys = [key for keys, finite in seen for key in keys if not (bad_losses and finite)]
        folder = Path(module.trainer.default_root_dir) / FOLDER
        if keys:
            write_keys(folder, keys, step=module.global_step, rank=module.global_rank, what=what)
        rows = f", on {', '.join(keys)}" if keys else " on another rank"
        where = f"Optimizer step {module.global_step}: a {what} is not a number{rows}"
        if self.left_out >= self.limit:
            raise FloatingPointError(
                f"{where}. These are {self.left_out} in a row, as many as `model.optim.nonfinite_steps`; their rows "
                f"are in {folder}. The learning rate (`model.optim.lr`) may be too high, or a sample or the precision "
                "is at fault: see the rows with `mmalign inspect`, then go on with `--ckpt_path last`. No checkpoint "
                "holds what came of them."
            )
        _LOG.warning("%s. The step is left out on all devices; see %s.", where, folder)


def write_keys(folder: Path, keys: Sequence[str], *, step: int, rank: int, what: str) -> None:
    """Write down the rows of a step that was left out; into the log where that fails.

    Args:
        folder: Where to.
        keys: Of the rows.
        step: Optimizer steps before it.
        rank: Of this process.
        what: That was not a number: `loss` or `gradient`.
    """
    content = {"step": step, "rank": rank, "not_a_number": what, "keys": list(keys)}
    path = folder / f"step-{step:06d}-rank-{rank}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
    except OSError as error:
        _LOG.warning("%s could not be written (%s). It would say: %s", path, error.strerror, json.dumps(content))
