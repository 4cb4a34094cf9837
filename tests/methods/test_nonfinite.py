"""A loss that is not a number: named with its rows, then the end of the run or a counted hole, as configured."""

import math

import pytest
import torch

from mmalign.methods.dpo import DPO
from mmalign.metrics import Mean


@pytest.fixture
def poisoned(monkeypatch):
    """The loss of the third training micro-batch is not a number."""
    compute_loss, seen = DPO.compute_loss, []

    def poison(self, batch):
        loss, metrics = compute_loss(self, batch)
        if self.training:
            seen.append(batch.keys)
        if self.training and len(seen) == 3:
            nan = loss * math.nan
            return nan, metrics | {"loss": Mean(nan.detach(), metrics["loss"].weight)}
        return loss, metrics

    monkeypatch.setattr(DPO, "compute_loss", poison)
    return seen


def test_the_run_ends_with_the_rows_by_name(fit, poisoned):
    with pytest.raises(FloatingPointError, match=r"optimizer step 1: the loss is not a number, on .*\.tar/") as ended:
        fit("--trainer.max_epochs=1")
    assert all(key in str(ended.value) for key in poisoned[2])
    assert "lower" in str(ended.value)


def test_or_goes_on_without_them_and_counts(fit, poisoned, logged, adapter_of, tmp_path, caplog):
    """Half of the second step's rows are left out; what is logged and learned stays finite."""
    trained = fit("--trainer.max_epochs=1", "--model.optim.nonfinite=skip")
    shares = list(logged(tmp_path / "run", "train/nonfinite").values())
    assert shares == [0.0, 1.0 / 2, 0.0, 0.0, 0.0]
    assert all(math.isfinite(loss) for loss in logged(tmp_path / "run").values())
    assert all(bool(torch.isfinite(p).all()) for p in adapter_of(trained).values())
    assert "Left out" in caplog.text
    assert poisoned[2][0] in caplog.text


@pytest.mark.parametrize("config", ["dpo.yaml", "sft.yaml"])
def test_gradients_that_are_none_never_reach_the_weights(fit, monkeypatch, adapter_of, config, caplog):
    """Finite losses, one gradient of the second step infinite: the run ends, or leaves the step out."""
    extra = ["--data.view.model=test"] if config == "sft.yaml" else []
    on_after_backward = DPO.on_after_backward

    def spoil(self):
        on_after_backward(self)
        if self.global_step == 1:
            next(p for p in self.parameters() if p.requires_grad).grad.fill_(math.inf)

    monkeypatch.setattr("mmalign.methods.base.AlignmentModule.on_after_backward", spoil)
    with pytest.raises(FloatingPointError, match=r"optimizer step 1: a gradient is not a number"):
        fit("--trainer.max_epochs=1", *extra, config=config)
    trained = fit("--trainer.max_epochs=1", "--model.optim.nonfinite=skip", *extra, config=config)
    assert all(bool(torch.isfinite(p).all()) for p in adapter_of(trained).values())
    assert "optimizer step 1: a gradient is not a number, though every loss is. The step is left out" in caplog.text


def test_weights_that_are_none_end_the_run_whatever_is_configured(fit, monkeypatch):
    def spoil(self):
        if self.global_step == 1:
            next(p for p in self.parameters() if p.requires_grad).data.fill_(math.nan)

    monkeypatch.setattr("mmalign.methods.base.AlignmentModule.on_after_backward", spoil)
    with pytest.raises(FloatingPointError, match=r"the loss is not a number"):
        fit("--trainer.max_epochs=1", "--model.optim.nonfinite=skip")
