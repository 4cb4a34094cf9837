"""Resume under a real Lightning Trainer: stopped in the middle of an epoch, the rows that follow are the same."""

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mmalign.data.datamodule import ShardData
from mmalign.data.views import Pairs

# Lightning 2.6.6 asks torch 2.13's pytree in a way that is deprecated: https://github.com/Lightning-AI/pytorch-lightning
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # a resumed run finds its own
]


class StoppedError(Exception):
    """The machine went away."""


class Recorder(LightningModule):
    """Trains one number and remembers the rows that it trained on, and those it validated on."""

    def __init__(self, stop_before=None):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.stop_before = stop_before
        self.trained = []
        self.validated = []

    def training_step(self, batch):
        if len(self.trained) == self.stop_before:
            raise StoppedError
        self.trained.append(tuple(batch.keys))
        return (self.scale - batch.targets.float().mean() * batch.row_weights.mean() / 100) ** 2

    def validation_step(self, batch):
        self.validated.append(tuple(batch.keys))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def data(mixed_set, tiny_llava):
    """`data(num_workers=0)`: 18 rows in steps of 8, cut into micro-batches of 2: 12 batches an epoch."""

    def make(num_workers=0):
        return ShardData(
            Pairs(),
            shards=str(mixed_set),
            val_shards=str(mixed_set),
            checkpoint=tiny_llava,
            batch_size=8,
            micro_batch_size=2,
            num_workers=num_workers,
        )

    return make


@pytest.fixture
def fit(tmp_path):
    """`fit(module, data, name, resume=None)`: two epochs, `<name>/last.ckpt` after every step."""

    def run(module, data, name, *, resume=None):
        checkpoint = ModelCheckpoint(
            tmp_path / name, filename="last", every_n_train_steps=1, enable_version_counter=False
        )
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            accumulate_grad_batches=data.accumulation(1),
            callbacks=[checkpoint],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, data, ckpt_path=str(tmp_path / resume / "last.ckpt") if resume else None, weights_only=True)
        return module

    return run


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("stop_before", "saved"), [(5, 4), (12, 12), (14, 12), (18, 16)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, fit, num_workers, stop_before, saved):
    """StoppedError before batch 5, 12, ...; the checkpoint is of the last whole step, after `saved` batches."""
    whole = fit(Recorder(), data(), "whole")
    stopped = Recorder(stop_before)
    with pytest.raises(StoppedError):
        fit(stopped, data(num_workers), "run")
    resumed = fit(Recorder(), data(num_workers), "run", resume="run")
    assert stopped.trained[:saved] + resumed.trained == whole.trained
    assert resumed.scale.equal(whole.scale)


def test_epochs_differ_and_validations_do_not(data, fit):
    module = fit(Recorder(), data(), "whole")
    assert len(module.trained) == 24
    assert module.trained[:12] != module.trained[12:]
    sanity, first, second = module.validated[:1], module.validated[1:10], module.validated[10:]
    assert first == second
    assert sanity == first[:1]
    assert len({key for batch in first for key in batch}) == 18
