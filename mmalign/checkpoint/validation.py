"""A validation that a stop has cut off is made up for when the run goes on.

Checkpoints are saved before validations. Lightning 2.6 takes a validation behind a checkpoint for done, so what was
killed within it would never be logged, and the checkpoint would never be among the best.

Tests    tests/checkpoint/test_validation.py, tests/faults/test_kills.py
"""

from typing import Any, cast

from lightning import Trainer


def is_due(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that is about to end.

    Args:
        trainer: Within a hook of that batch, or of the validation itself.
    """
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(cast(Any, loop._data_fetcher))


def validate(trainer: Trainer) -> None:
    """Validate before the first step; Lightning's counters stay as the checkpoint has them. All ranks must call it.

    Args:
        trainer: Within `on_train_start`.
    """
    loop, logging = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    progress, restarting, first = loop.batch_progress.state_dict(), loop.restarting, logging._first_loop_iter
    loop.restarting, trainer.validating = False, True
    loop.run()
    trainer.training, loop.restarting, loop._has_run = True, restarting, False
    loop.batch_progress.load_state_dict(progress)
    logging._first_loop_iter = first
