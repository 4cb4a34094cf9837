"""What every alignment method shares: a lazily built backbone, an optimizer, logging."""

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW
from torchmetrics import MeanMetric
from transformers import get_cosine_schedule_with_warmup

from mmalign.backbone import PROJECTOR, BackboneSettings, Llava
from mmalign.batch import Batch, Role


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """AdamW with linear warmup, then cosine decay to zero."""

    lr: float
    """Peak learning rate of the adapters."""
    projector_lr: float = 2.0e-5
    """Peak learning rate of the projector, where `backbone.train_projector` is set (LLaVA-1.5: 2e-5)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_ratio: float = 0.03
    """Share of all optimizer steps from zero to ``lr``, in [0, 1]."""


class AlignmentModule(LightningModule, ABC):
    """Base of every method. A subclass writes ``__init__`` and ``compute_loss``, nothing else."""

    llava: Llava
    strict_loading = False  # checkpoints hold what training changed only, see `state_dict`
    loss_at_reference: float
    """The loss where policy and reference are equal; the preflight checks it."""
    roles: tuple[Role, ...]
    """What the responses of a row are, in order; `data.view` must make the same."""

    def __init__(self, backbone: BackboneSettings, optim: OptimSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.optim = optim
        self._means: dict[str, MeanMetric] = {}
        self._seed = 0
        self._step_began = 0.0
        self._step_tokens = 0

    def configure_model(self) -> None:
        """Load weights here, not in ``__init__``: sharded strategies and ``--help`` need it late."""
        if not hasattr(self, "llava"):  # Lightning calls this hook once per stage
            self.llava = Llava(self.backbone)

    @abstractmethod
    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and the scalars to log, `loss` among them."""

    def on_fit_start(self) -> None:
        """Remember the run's seed before anything draws from it."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout is a function of (seed, epoch, batch, rank), so a resumed run drops what a whole one would."""
        torch.manual_seed(hash((self._seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch; scalars are gathered until the optimizer steps."""
        if not self._step_tokens:
            self._step_began = time.perf_counter()
        loss, metrics = self.compute_loss(batch)
        self._step_tokens += int((batch.segment_ids >= 0).sum())
        self._gather(metrics, batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log means over all micro-batches of the optimizer step, with its speed."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches and not self.trainer.is_last_batch:
            return
        scalars = {f"train/{name}": metric.compute() for name, metric in self._means.items()}
        scalars["train/tokens_per_s"] = torch.tensor(self._step_tokens / (time.perf_counter() - self._step_began))
        self._step_tokens = 0
        for metric in self._means.values():
            metric.reset()
        self.log_dict({name: value for name, value in scalars.items() if not value.isnan()})
        self.log("loss", scalars["train/loss"], prog_bar=True, logger=False)

    def _gather(self, metrics: dict[str, Tensor], batch: Batch) -> None:
        """Every key on every micro-batch, also where no row counts: ranks compute them one by one, in this order."""
        for name, value in metrics.items():
            metric = self._means.setdefault(name, MeanMetric(nan_strategy="disable")).to(value.device)
            metric.update(value, _weight_of(name, batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Means over the validation rows, holes left out."""
        _, metrics = self.compute_loss(batch)
        for name, value in metrics.items():
            # On every rank, also where no row counts, or the others would wait for it.
            self.log(f"val/{name}", value, batch_size=_weight_of(name, batch), sync_dist=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not those this config trains: `strict_loading` is off for the frozen ones only."""
        found = set(checkpoint["state_dict"])
        expected = {name for name, p in self.named_parameters() if p.requires_grad}
        if strange := sorted(found ^ expected):
            raise ValueError(
                f"The checkpoint's weights are not those that `model.backbone` trains: {strange[0]}. Resume with "
                "the backbone settings of the run, as they stand in its logs/version_*/config.yaml."
            )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Only what training changed: the frozen LLaVA is reloaded from its own checkpoint."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: t for name, t in super().state_dict(*args, **kwargs).items() if name in trainable}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the adapters, and over the projector at its own rate where it trains."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if PROJECTOR not in name], "lr": self.optim.lr},
            {"params": [p for name, p in named if PROJECTOR in name], "lr": self.optim.projector_lr},
        ]
        optimizer = AdamW([group for group in groups if group["params"]], weight_decay=self.optim.weight_decay)
        steps = self.total_steps()
        schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(self.optim.warmup_ratio * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def total_steps(self) -> int:
        """Optimizer steps of the whole run.

        Not `trainer.estimated_stepping_batches`: it loads the train loader before the checkpoint is read, and Lightning
        2.6 then never restores the loader's position (https://github.com/Lightning-AI/pytorch-lightning/issues/20550).
        """
        per_epoch: int = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        limits = [self.trainer.max_steps, per_epoch * (self.trainer.max_epochs or 1)]
        return min(limit for limit in limits if limit > 0)


def _weight_of(name: str, batch: Batch) -> int:
    """Rows that a scalar is the mean of: those that count, and for the share of refused rows those as well."""
    counted = int((batch.row_weights > 0).sum())
    return counted + int(batch.refused.sum()) if name == "refused" else counted
