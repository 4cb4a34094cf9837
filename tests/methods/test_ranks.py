"""One rank or two: the same rows reach the same optimizer steps, and the same adapter comes out."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from mmalign.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow


def losses(run_dir):
    with (run_dir / "logs/version_0/metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("config", ["dpo.yaml", "sft.yaml", "kto.yaml"])
def test_two_ranks_equal_one(ranks, fit_into, tiny_llava, color_shards, tmp_path, config):
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
    ranks.run(2, *command)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 5
    assert two == pytest.approx(one, rel=1e-4)
    expected, found = (load_file(newest_checkpoint(tmp_path / n) / "adapter.safetensors") for n in ("one", "two"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-4)
