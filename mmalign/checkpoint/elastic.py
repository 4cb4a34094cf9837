"""Resuming where a step is cut otherwise: another number of ranks, or another `data.micro_batch_size`.

The loader's place counts rows and needs nothing. Lightning counts the batches of a rank, so its counters are converted;
they stay exact because checkpoints lie between optimizer steps. All else in them counts steps, epochs or validations.

Tests    tests/checkpoint/test_elastic.py
"""

from typing import Any

from mmalign.checkpoint.format import CheckpointError

PROGRESS = "epoch_loop.batch_progress"


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
