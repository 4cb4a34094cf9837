"""Reference stores through the door a user comes in by: computed once, for every run that needs them."""

import shutil
import subprocess
import sys

import pytest
import torch

from mmalign import cli
from mmalign.checkpoint import newest_checkpoint
from mmalign.methods.base import AlignmentModule


@pytest.fixture
def colors(color_shards, tmp_path):
    """A copy of the colour shards, without a store."""
    folder = tmp_path / "colors"
    folder.mkdir()
    for path in (*color_shards.glob("*.tar"), color_shards / "manifest.arrow"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def scored_batches(monkeypatch):
    """The number of batches that the pass has scored."""
    counted = []
    forward = AlignmentModule.forward
    monkeypatch.setattr(AlignmentModule, "forward", lambda *args: counted.append(1) or forward(*args))
    return lambda: len(counted)


def weights_of(cli_run):
    return {name: p.detach().clone() for name, p in cli_run.model.named_parameters() if p.requires_grad}


@pytest.mark.slow
def test_epochs_sweeps_and_resumes_do_no_reference_forward(fit, colors, scored_batches, tmp_path):
    """40 samples in shards of 16, 16 and 8: ten batches of four, once; and a warm run is the cold one, bit by bit."""
    options = [f"--data.{name}={colors}" for name in ("shards", "val_shards")]
    options += ["--model.backbone.lora_dropout=0.3"]
    cold = weights_of(fit(*options, run_dir=tmp_path / "cold"))
    assert scored_batches() == 10
    warm = weights_of(fit(*options, run_dir=tmp_path / "warm"))
    assert all(torch.equal(cold[name], warm[name]) for name in cold)
    fit(*options, "--model.beta=0.3", "--model.average_logps=true", run_dir=tmp_path / "beta")
    fit(*options, "--data.view.rejected=worst", "--data.view.margin=1", run_dir=tmp_path / "rule")
    allowed = ["--checkpoint.allow_drift=[trainer.max_epochs]"]
    fit(*options, "--trainer.max_epochs=3", *allowed, "--ckpt_path=last", run_dir=tmp_path / "warm")
    assert scored_batches() == 10


@pytest.mark.slow
def test_a_store_trains_as_a_live_reference_does(fit, colors, tmp_path):
    stored, live = (
        weights_of(fit(f"--data.shards={colors}", f"--model.reference={which}", run_dir=tmp_path / which))
        for which in ("store", "live")
    )
    assert all(torch.allclose(stored[name], live[name], atol=1e-5) for name in stored)


@pytest.fixture
def options(tiny_args, colors, tmp_path):
    """Of a run on those shards."""
    return tiny_args(
        *(f"--data.shards={colors}", f"--data.val_shards={colors}", f"--trainer.default_root_dir={tmp_path / 'run'}")
    )


@pytest.mark.slow
def test_the_command_makes_what_fit_needs_and_begins_no_run(fit, colors, options, scored_batches, tmp_path):
    cli.main(["reference", *options])
    assert scored_batches() == 10
    assert not (tmp_path / "run").exists()
    fit(f"--data.shards={colors}", f"--data.val_shards={colors}")
    assert scored_batches() == 10


@pytest.mark.slow
def test_validation_completes_its_stores_too(fit, colors, options, scored_batches, tmp_path):
    fit("--data.val_shards=[]", f"--data.shards={colors}", "--trainer.max_epochs=1")
    shutil.rmtree(colors / "reference")
    checkpoint = newest_checkpoint(tmp_path / "run")
    cli.main(["validate", *options, f"--ckpt_path={checkpoint}"])
    assert scored_batches() == 20


def test_a_method_without_a_reference_has_none_to_compute(options):
    with pytest.raises(ValueError, match="DPO reads no reference log-probabilities from a store"):
        cli.main(["reference", *options, "--model.reference=live"])


@pytest.mark.slow
def test_two_real_ranks_make_the_bytes_of_one(colors, options):
    """DDP over gloo, started as a user does."""
    cli.main(["reference", *options])
    alone = {path.name: path.read_bytes() for path in colors.glob("reference/*/*.arrow")}
    shutil.rmtree(colors / "reference")
    args = [sys.executable, "-m", "mmalign.cli", "reference", *options, "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("40 samples are read now") == 1
    assert len(alone) == 3
    assert alone == {path.name: path.read_bytes() for path in colors.glob("reference/*/*.arrow")}
