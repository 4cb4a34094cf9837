"""One rank or two: the same rows reach the same optimizer steps, and the same adapter comes out."""

import csv
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mmalign.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow


def losses(run_dir):
    with (run_dir / "logs/version_0/metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("config", ["dpo.yaml", "sft.yaml", "kto.yaml"])
def test_two_ranks_equal_one(fit_into, tiny_llava, color_shards, tmp_path, config):
    """DDP over gloo, with a projector that trains and micro-batches without a picture: losses and weights to 1e-4.

    SFT divides by the tokens of the whole step, KTO by its answers, and KTO's baseline is gathered.
    """
    options = [
        f"--model.backbone.checkpoint={tiny_llava}",
        "--model.backbone.lora_rank=4",
        "--model.backbone.train_projector=true",
        f"--data.shards={color_shards}",
        f"--data.val_shards={color_shards}",
        "--data.batch_size=8",
        "--data.micro_batch_size=1",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
        *(["--data.view.model=test"] if config == "sft.yaml" else []),
    ]
    fit_into(tmp_path / "one", *options, config=config)
    command = ["fit", f"--config={config}", "--config=scale/tiny.yaml", *options]
    command += [f"--trainer.default_root_dir={tmp_path / 'two'}", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run([sys.executable, "-m", "mmalign.cli", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 5
    assert two == pytest.approx(one, rel=1e-4)
    expected, found = (load_file(newest_checkpoint(tmp_path / n) / "adapter.safetensors") for n in ("one", "two"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-4)


POISONED = '''
import math

from mmalign.methods.sft import SFT


class Poisoned(SFT):
    """On rank 1 the loss of the first micro-batch is not a number."""

    def compute_loss(self, batch):
        loss, metrics = super().compute_loss(batch)
        poison = self.training and self.global_rank == 1 and self.global_step == 0
        return (loss * math.nan if poison else loss), metrics
'''


def test_a_rank_without_a_finite_loss_does_not_keep_the_others_waiting(tiny_llava, color_shards, tmp_path, monkeypatch):
    """One micro-batch a rank and step, rank 1's first one left out: both still add up the step's tokens."""
    (tmp_path / "poisoned.py").write_text(POISONED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [
        *(sys.executable, "-m", "mmalign.cli", "fit", "--config=sft.yaml", "--config=scale/tiny.yaml"),
        "--model.class_path=poisoned.Poisoned",
        f"--model.backbone.checkpoint={tiny_llava}",
        "--model.optim.nonfinite=skip",
        "--data.view.model=test",
        f"--data.shards={color_shards}",
        "--data.val_shards=",
        *("--data.batch_size=8", "--data.micro_batch_size=4", "--trainer.max_steps=2"),
        *("--trainer.enable_progress_bar=false", "--trainer.devices=2", "--trainer.strategy=ddp"),
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Left out" in done.stderr
    assert len(losses(tmp_path / "run")) == 2
