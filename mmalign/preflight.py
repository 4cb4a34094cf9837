"""Checks at step 0 that stop a run which would train on nothing.

A wrong mask, a reference that is not the start, pixels that never reach the model: each of them trains to the end
without a word. So before the first step, on the first batch:

1. the loss is what the method declares where policy and reference are equal, if it declares one;
2. other pictures give other log-probabilities;
3. the trained tokens decode to the answers, end token included, and hold no image token;
4. only adapters (and the projector, where asked) can train; before the first optimizer step, something has a gradient.
"""

import math
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from mmalign.backbone import PROJECTOR
from mmalign.batch import Batch
from mmalign.data.datamodule import ShardData
from mmalign.logps import response_logps
from mmalign.methods.base import AlignmentModule
from mmalign.sharding import gradients_of

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far the loss may lie from the declared one, by the dtype of the frozen weights."""


class PreflightError(ValueError):
    """The run would not train what its config says."""


class Preflight(Callback):
    """Runs the checks once, before the first optimizer step of a fresh run."""

    def __init__(self, enabled: bool = True) -> None:
        """Choose whether to check.

        Args:
            enabled: False skips all checks; a run that needs this is probably wrong.
        """
        self.enabled = enabled
        self._gradient_seen = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks 1 to 4, without a gradient and without touching the loader's position."""
        if not self.enabled or trainer.global_step > 0:
            self._gradient_seen = True
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, AlignmentModule)
        assert isinstance(data, ShardData)
        batch, answers = data.preview()
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        passed = check_start(trainer, pl_module, data, batch, answers)
        rank_zero_info(f"Preflight passed: {passed}, only adapters train.")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Check 4 once all micro-batches and ranks have added their gradients to the first step."""
        if self._gradient_seen or not pl_module.ends_step:
            return
        self._gradient_seen = True
        here = any(bool(gradient.any()) for gradient in gradients_of(pl_module))
        anywhere = trainer.strategy.reduce(torch.tensor(float(here), device=pl_module.device), reduce_op="sum")
        if not anywhere:
            raise PreflightError(
                "No parameter has a gradient before the first optimizer step. Chosen and rejected answers may be "
                "equal (see `mmalign inspect`), or the adapters match no layer (`model.backbone`)."
            )


def check_start(trainer: Trainer, module: AlignmentModule, data: ShardData, batch: Batch, answers: list[str]) -> str:
    """Checks 1 to 4 but for gradients; leaves the module in training mode.

    Args:
        trainer: Knows the precision.
        module: The method, its model loaded.
        data: Holds the template.
        batch: A collated batch, on the module's device.
        answers: The text of each of its responses.

    Returns:
        What has passed, in words.

    Raises:
        PreflightError: A check fails.
    """
    module.eval()
    with torch.no_grad(), trainer.precision_plugin.train_step_context():
        check_loss(module, batch)
        check_pixels(module, batch)
    module.train()
    check_targets(data, batch, answers)
    check_trainable(module)
    declared = module.loss_at_reference
    loss = "" if declared is None else f"loss {declared:.4f} at the reference, "
    return f"{loss}pictures matter, {len(batch.targets)} trained tokens are the answers"


def check_loss(module: AlignmentModule, batch: Batch) -> None:
    """Raise where the loss at the start is not the one the method declares."""
    if not bool((batch.row_weights > 0).any()):
        raise PreflightError(
            f"None of the first rows can be used, so nothing would be trained. The first: {batch.refusals[0]} "
            "`mmalign inspect` shows lengths."
        )
    _, metrics = module.compute_loss(batch)
    found, declared = float(metrics["loss"].value), module.loss_at_reference
    if not math.isfinite(found):
        raise PreflightError(
            f"The first loss is {found}, on {', '.join(batch.keys)}. A weight, a picture or a stored reference "
            "log-probability is not a number: check `model.backbone.checkpoint` and its dtype."
        )
    if declared is not None and not math.isclose(found, declared, rel_tol=TOLERANCE[module.backbone.dtype]):
        raise PreflightError(
            f"The first loss is {found:.6f}, but {type(module).__name__} at its reference gives {declared:.6f}: policy "
            "and reference differ before any step. Look at `model.backbone` (an adapter that does not start at zero, "
            "a reference that is not the start)."
        )


def check_pixels(module: AlignmentModule, batch: Batch) -> None:
    """Raise where the log-probabilities stay the same with the pictures inverted; text-only batches pass."""
    if not len(batch.pixel_values):
        return
    seen = response_logps(module.llava, batch).sums
    swapped = response_logps(module.llava, batch._replace(pixel_values=-batch.pixel_values)).sums
    if torch.equal(seen, swapped):
        raise PreflightError(
            "Other pictures give the same log-probabilities: the model does not see them. Check that `data.shards` "
            "holds pictures and that `model.backbone.checkpoint` is a LLaVA with its own vision tower and projector."
        )


def check_targets(data: ShardData, batch: Batch, answers: list[str]) -> None:
    """Raise where the trained tokens are not the answers.

    Args:
        data: Holds the template.
        batch: A collated batch.
        answers: The text of each of its responses.
    """
    template = data.template
    targets, owners = batch.targets.tolist(), batch.response_index.tolist()
    if template.image_token_id in targets:
        raise PreflightError(
            "An image token is trained as part of an answer. Report this: mmalign's template is wrong."
        )
    for index, answer in enumerate(answers):
        tokens = [token for token, owner in zip(targets, owners, strict=True) if owner == index]
        cut = bool(batch.truncated[index])
        text = template.decode_response(tokens)
        whole = text == answer and tokens[-1:] == [template.eos_token_id]
        if not (whole or (cut and answer.startswith(text.rstrip("\ufffd")))):
            raise PreflightError(
                f"{batch.keys[int(batch.row_index[index])]}: the trained tokens decode to {text!r}, but the answer is "
                f"{answer!r}. The tokenizer of `model.backbone.checkpoint` does not round-trip; see `mmalign inspect`."
            )


def check_trainable(module: AlignmentModule) -> None:
    """Raise where anything but adapters, and the projector if asked, may train."""
    names = module.llava.trainable_names()
    allowed = ("lora_", PROJECTOR) if module.backbone.train_projector else ("lora_",)
    strangers = [name for name in names if not any(part in name for part in allowed)]
    if strangers or not names:
        raise PreflightError(
            f"Trainable parameters beside the adapters: {strangers[:3]}." if names else "Nothing is trainable."
        )
