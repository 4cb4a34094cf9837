"""A loss or a gradient that is not a number: its step is left out and its rows are named; several end the run."""

import json
import math

import pytest
import torch

from mmalign.checkpoint import CheckpointError
from mmalign.methods.dpo import DPO
from mmalign.metrics import Mean


@pytest.fixture
def poison(monkeypatch):
    """`poison(3)`: the loss of that training micro-batch, and of those behind it if so wished, is not a number."""

    def start(first, last=None):
        compute_loss, seen = DPO.compute_loss, []

        def poisoned(self, batch):
            loss, metrics = compute_loss(self, batch)
            if not self.training:
                return loss, metrics
            seen.append(batch.keys)
            if not first <= len(seen) <= (last or first):
                return loss, metrics
            nan = loss * math.nan
            return nan, metrics | {"loss": Mean(nan.detach(), metrics["loss"].weight)}

        monkeypatch.setattr(DPO, "compute_loss", poisoned)
        return seen

    return start


def test_the_step_is_left_out_with_its_rows_by_name(fit, poison, logged, adapter_of, tmp_path, caplog):
    """Two micro-batches a step, the third's loss is none: step 1 changes nothing, what is logged stays finite."""
    seen = poison(3)
    trained = fit("--trainer.max_epochs=1")
    assert list(logged(tmp_path / "run", "train/nonfinite").values()) == [0.0, 1 / 2, 0.0, 0.0, 0.0]
    assert all(math.isfinite(loss) for loss in logged(tmp_path / "run").values())
    assert all(bool(torch.isfinite(p).all()) for p in adapter_of(trained).values())
    assert "Optimizer step 1: a loss is not a number" in caplog.text
    assert "left out on all devices" in caplog.text
    written = json.loads((tmp_path / "run/nonfinite/step-000001-rank-0.json").read_text())
    assert written == {"step": 1, "rank": 0, "not_a_number": "loss", "keys": seen[2]}


def test_a_step_that_is_left_out_leaves_weights_and_moments_as_they_are(fit, poison, tmp_path):
    poison(3)
    trained = fit("--trainer.max_steps=2", "--checkpoint.every_n_steps=1")
    state = trained.trainer.optimizers[0].state
    assert {float(each["step"]) for each in state.values()} == {1.0}


def test_three_in_a_row_end_the_run_and_are_never_saved(fit, poison, tmp_path):
    """Steps 1, 2 and 3: the error says where their rows are named, the newest checkpoint is of before."""
    poison(3, last=100)
    with pytest.raises(FloatingPointError, match=r"Optimizer step 3: a loss is not a number, on .*3 in a row"):
        fit("--trainer.max_epochs=1", "--checkpoint.every_n_steps=1")
    assert len(list((tmp_path / "run/nonfinite").iterdir())) == 3
    with pytest.raises(CheckpointError, match="already holds a run"):
        fit("--trainer.max_epochs=1")


def test_the_count_of_steps_in_a_row_goes_on_after_a_resume(fit, poison, tmp_path):
    """Two before the stop, one behind it."""
    poison(3, last=100)
    with pytest.raises(FloatingPointError, match="2 in a row"):
        fit("--model.optim.nonfinite_steps=2", "--checkpoint.every_n_steps=1", "--trainer.max_epochs=1")
    with pytest.raises(FloatingPointError, match=r"Optimizer step 2: .*2 in a row"):
        fit("--model.optim.nonfinite_steps=2", "--ckpt_path=last", "--trainer.max_epochs=1")


@pytest.mark.parametrize("config", ["dpo.yaml", "sft.yaml"])
def test_gradients_that_are_none_never_reach_the_weights(fit, monkeypatch, adapter_of, config, caplog, tmp_path):
    """Finite losses, one gradient of the second step infinite: the step is left out, all its rows are named."""
    extra = ["--data.view.model=test"] if config == "sft.yaml" else []
    on_after_backward = DPO.on_after_backward

    def spoil(self):
        on_after_backward(self)
        if self.global_step == 1:
            next(p for p in self.parameters() if p.requires_grad).grad.fill_(math.inf)

    monkeypatch.setattr("mmalign.methods.base.AlignmentModule.on_after_backward", spoil)
    trained = fit("--trainer.max_epochs=1", *extra, config=config)
    assert all(bool(torch.isfinite(p).all()) for p in adapter_of(trained).values())
    assert "Optimizer step 1: a gradient is not a number" in caplog.text
    assert len(json.loads((tmp_path / "run/nonfinite/step-000001-rank-0.json").read_text())["keys"]) == 8


def test_one_step_may_be_enough_to_stop(fit, poison):
    poison(3)
    with pytest.raises(FloatingPointError, match=r"Optimizer step 1: .*The learning rate"):
        fit("--trainer.max_epochs=1", "--model.optim.nonfinite_steps=1")
    with pytest.raises(ValueError, match=r"`model.optim.nonfinite_steps` must be at least 1"):
        fit("--model.optim.nonfinite_steps=0")
