"""A validation that a stop has cut off is made up for, once, and changes nothing else."""

import pytest
from lightning import Callback

from mmalign.checkpoint import newest_checkpoint
from mmalign.checkpoint.retention import read_scores

SCORES = [0.5, 0.2, 0.9]


class KilledError(Exception):
    """The process is gone."""


class KilledInValidation(Callback):
    def __init__(self, step):
        self.step = step

    def on_validation_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise KilledError


@pytest.mark.parametrize("keep_best", [0, 1])
def test_what_was_cut_off_is_validated_before_the_next_step_and_once(train, toy, tmp_path, keep_best, names):
    settings = {"max_epochs": 3, "every_n_steps": 8, "keep_last": 5, "keep_best": keep_best}
    with pytest.raises(KilledError):
        train(toy(scores=SCORES), callbacks=[KilledInValidation(16)], **settings)
    folder, validated = tmp_path / "checkpoints", []

    class Notes(Callback):
        def on_validation_end(self, trainer, module):
            validated.append((trainer.global_step, len(module.seen)))

    resumed = newest_checkpoint(tmp_path)
    assert resumed.name == "step-000016"
    assert "step-000016" not in read_scores(folder, "val/loss")
    train(toy(scores=SCORES), resume=resumed, callbacks=[Notes()], **settings)
    assert validated == [(16, 0), (24, 8)]
    assert read_scores(folder, "val/loss").keys() == {"step-000008", "step-000016", "step-000024"}
    validated.clear()
    train(toy(scores=SCORES), resume=folder / "step-000016", callbacks=[Notes()], **settings)
    assert validated == [(24, 8)]
