"""Small checkpoints without a model, and a small model under a real Lightning Trainer."""

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from mmalign.checkpoint import Checkpoints, DirectoryCheckpointIO


@pytest.fixture(scope="session")
def content():
    """`content(step)`: what Lightning would hand over."""

    def make(step):
        return {
            "state_dict": {"llava.lora_A": torch.full((2, 3), float(step)), "llava.lora_B": torch.zeros(3, 2)},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
            "global_step": step,
            "run": {"identity": {"model.init_args.beta": 0.1}},
        }

    return make


@pytest.fixture
def run(tmp_path, content):
    """A run directory with checkpoints of steps 1 and 2."""
    for step in (1, 2):
        DirectoryCheckpointIO().save_checkpoint(content(step), tmp_path / "checkpoints" / f"step-{step:06d}")
    return tmp_path


class Numbers:
    """A loader that resumes: eight batches an epoch, the number of each."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return 8

    def __iter__(self):
        for number in range(self.position, 8):
            self.position = (number + 1) % 8
            yield torch.tensor(float(number))

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Toy(LightningModule):
    """A layer that learns from numbers and from chance; what it validates at comes from a list."""

    def __init__(self, scores=(), shape=(3, 3)):
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(*shape)
        self.scores = list(scores)
        self.seen = []

    def training_step(self, batch):
        self.seen.append(float(batch))
        chance = np.random.rand() + float(torch.rand(()))  # beartype draws from python's own, in tests
        return (self.layer.weight * batch + self.layer.bias).sin().mean() * chance

    def validation_step(self, batch):
        self.log("val/loss", self.scores[self.trainer.current_epoch])

    def configure_optimizers(self):
        return {"optimizer": torch.optim.AdamW(self.parameters(), lr=0.1)}


@pytest.fixture
def train(tmp_path):
    """`train(Toy(), resume=None, accumulate=1, **settings of Checkpoints)`: eight batches an epoch; its Trainer."""

    def run(module, *, resume=None, accumulate=1, max_epochs=2, callbacks=(), **settings):
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = Trainer(
            max_epochs=max_epochs,
            accelerator="cpu",
            devices=1,
            accumulate_grad_batches=accumulate,
            callbacks=[*callbacks, Checkpoints(**settings)],
            plugins=[DirectoryCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=1 if module.scores else 0,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, Numbers(), [torch.zeros(1)], ckpt_path=resume)
        return trainer

    return run


@pytest.fixture
def toy():
    """The class."""
    return Toy


@pytest.fixture
def names(tmp_path):
    """`names()`: what lies in the run's folder of checkpoints."""
    return lambda: sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
