"""An optimizer goes on with its moments or not at all: Lightning and torch would start some of them afresh, silently.

Tests    tests/checkpoint/test_optimizer.py
"""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from torch import nn

from mmalign.checkpoint.format import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, for each parameter; beside them `step`."""


def check_optimizer(checkpoint: Mapping[str, Any], module: LightningModule) -> None:
    """Compare the saved moments with the parameters that they belong to here, one by one.

    Args:
        checkpoint: Lightning's, with whole tensors.
        module: That is to go on.

    Raises:
        CheckpointError: A parameter would start without moments, or with another's.
    """
    saved = checkpoint.get("optimizer_states") or []
    if len(saved) != 1:
        raise CheckpointError(
            f"The checkpoint holds the state of {len(saved)} optimizers, a run has one. It cannot be gone on with: "
            "start from its weights instead, `mmalign export` and then `model.backbone.adapter`."
        )
    if not saved[0]["state"] and checkpoint.get("nonfinite_steps", 0) >= checkpoint["global_step"]:
        return  # every step so far was left out, so there is nothing yet
    made: Any = module.configure_optimizers()  # says which parameters, in which order
    groups: list[list[nn.Parameter]] = [group["params"] for group in made["optimizer"].param_groups]
    found = [len(group["params"]) for group in saved[0]["param_groups"]]
    if found != (here := [len(group) for group in groups]):
        raise CheckpointError(
            f"The checkpoint's optimizer trains {found} parameters a group, this run {here}. Resume with the "
            "`model.backbone` it was made with."
        )
    names = {parameter: name for name, parameter in module.named_parameters()}
    for number, parameter in enumerate(parameter for group in groups for parameter in group):
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        state = saved[0]["state"].get(number, {})
        for moment in MOMENTS:
            shapes = tuple(state[moment].shape) if moment in state else None
            if shapes != shape:
                raise CheckpointError(
                    f"The checkpoint's optimizer has {moment} of shape {shapes} for {names[parameter]}, which is "
                    f"{shape} here. Resume with the `model.backbone` it was made with."
                )
