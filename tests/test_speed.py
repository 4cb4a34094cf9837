"""Speed of training: what is logged at each optimizer step, and that it counts right."""

import pytest

from mmalign.data.loader import RowLoader
from mmalign.methods.dpo import DPO

SPEED = ("tokens_per_s", "useful_tokens_per_s", "loader_wait_s", "flops_per_s", "peak_memory_gb")


class CrashError(Exception):
    """Power is gone."""


@pytest.mark.slow
def test_every_step_is_logged_once_also_by_a_resumed_run(fit, tmp_path, monkeypatch, logged):
    """40 rows in steps of 8, two micro-batches each: 5 steps an epoch. Dead within step 7, it goes on with that one."""
    compute_loss, trained = DPO.compute_loss, []

    def mortal(self, batch):
        trained.append(self.training)
        if sum(trained) > 15:
            raise CrashError
        return compute_loss(self, batch)

    monkeypatch.setattr(DPO, "compute_loss", mortal)
    with pytest.raises(CrashError):
        fit("--checkpoint.every_n_steps=1")
    monkeypatch.undo()
    fit("--ckpt_path=last")
    speed = {name: logged(tmp_path / "run", f"train/{name}") for name in SPEED}
    assert all(list(values) == list(range(10)) for values in speed.values())
    assert all(0 < speed["useful_tokens_per_s"][step] <= speed["tokens_per_s"][step] for step in range(10))
    assert all(value > 0 for name in ("loader_wait_s", "flops_per_s") for value in speed[name].values())
    assert all(0.1 < value < 100 for value in speed["peak_memory_gb"].values())


@pytest.mark.slow
def test_a_slow_loader_shows_as_wait_and_all_micro_batches_count(fit, tmp_path, monkeypatch, logged):
    """Where a batch takes 0.05 s, a step of two micro-batches waits 0.1 s, and its rate knows of it."""
    seen = []

    class Slow(RowLoader):
        def _timed(self, batches):
            self.waited_s += 0.05
            batch = super()._timed(batches)
            if batch is not None:
                seen.append((batch.segment_ids.numel(), int((batch.segment_ids >= 0).sum())))
            return batch

    monkeypatch.setattr("mmalign.data.datamodule.RowLoader", Slow)
    fit("--trainer.max_steps=3")
    wait, padded_rate, useful_rate = (
        logged(tmp_path / "run", f"train/{name}") for name in ("loader_wait_s", "tokens_per_s", "useful_tokens_per_s")
    )
    for step in range(3):
        padded, useful = (sum(column) for column in zip(*seen[2 * step : 2 * step + 2], strict=True))
        assert 0.1 < wait[step] < 1
        assert padded_rate[step] / useful_rate[step] == pytest.approx(padded / useful, rel=1e-4)
        assert padded_rate[step] < padded / wait[step]
