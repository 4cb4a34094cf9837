"""Lightning's counters: what they must be for a run to go on as if it had never stopped, on any number of ranks.

The loader's place counts rows and needs nothing. Lightning counts the batches of a rank, so its counters are converted
where a step is cut otherwise; they stay exact because checkpoints lie between optimizer steps. And it loses an epoch in
the counters of a run that resumed at an epoch's end, and would train one more after the next such resume (2.6).

Tests    tests/checkpoint/test_elastic.py
"""

from typing import Any

from mmalign.checkpoint.format import CheckpointError

PROGRESS = "epoch_loop.batch_progress"
VALIDATED = "epoch_loop.val_loop.batch_progress"


def mend_epochs(loops: dict[str, Any]) -> None:
    """Set the counters of epochs to what they are in a run that never stopped, in place.

    Args:
        loops: As Lightning is about to save them.
    """
    fit = loops["fit_loop"]
    batches = fit[PROGRESS]["current"]
    if batches["completed"] == batches["processed"]:  # outside the hooks of a batch: the run has ended
        return
    for counters in fit["epoch_progress"]["total"], fit["epoch_progress"]["current"]:
        counters["ready"] = counters["started"] = counters["processed"] + 1
    for name in ("total", "current"):  # of validations that are over; behind such a resume they would add up
        fit[VALIDATED][name] = dict.fromkeys(fit[VALIDATED][name], 0)


def convert_batches(loops: dict[str, Any], *, saved: int, here: int) -> None:
    """Convert Lightning's counters of training batches in place.

    Args:
        loops: As Lightning saved them.
        saved: Batches that a rank took for one optimizer step, when they were saved.
        here: Batches that it takes now.

    Raises:
        CheckpointError: They were saved within a step.
    """
    if saved == here:
        return
    progress = loops["fit_loop"][PROGRESS]
    for counters in (progress["total"], progress["current"]):
        steps, within = divmod(counters["ready"], saved)
        if within:
            raise CheckpointError(
                f"The checkpoint stands {within} of {saved} micro-batches into an optimizer step, and here a step has "
                f"{here}. Resume on as many devices and with the `data.micro_batch_size` it was made with."
            )
        # Within the hooks of a batch, it is ready but not completed: that lag of one batch stays.
        counters |= {name: steps * here - (counters["ready"] - count) for name, count in counters.items()}
