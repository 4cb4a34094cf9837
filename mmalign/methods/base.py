"""What every alignment method shares: a lazily built backbone, an optimizer, its references, logging.

AlignmentModule   any method: writes `compute_loss(batch)`
PairMethod        chosen against rejected, against a reference: writes `pair_loss(policy, reference)`
AnswerMethod      answers to be learned as they are: nothing is left to write
"""

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW
from transformers import get_cosine_schedule_with_warmup

from mmalign.backbone import PROJECTOR, BackboneSettings, Llava
from mmalign.batch import Batch, PairLogps, PairLoss, Role
from mmalign.logps import pair_logps, response_logps, sum_responses, token_logps
from mmalign.losses.sft import sft_loss
from mmalign.metrics import Mean, StepMean, answer_metrics, preference_metrics
from mmalign.nonfinite import FiniteSteps
from mmalign.reference import prepare_references
from mmalign.sharding import scale_gradients

_LOG = logging.getLogger(__name__)

Reference = Literal["store", "live"]
"""Where reference log-probabilities come from: computed once into a store beside the shards, or in every step."""


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
    nonfinite_steps: int = 3
    """Optimizer steps in a row whose loss or gradient is not a number, until the run stops, >= 1. Each of them is left
    out on all devices, and its rows are named in `nonfinite/` beside the checkpoints."""

    def __post_init__(self) -> None:
        """Raise where the number of steps is none."""
        if self.nonfinite_steps < 1:
            raise ValueError(
                f"`model.optim.nonfinite_steps` must be at least 1, got {self.nonfinite_steps}: 1 stops at once."
            )


class AlignmentModule(LightningModule, ABC):
    """Base of every method. A subclass writes ``__init__`` and ``compute_loss``, nothing else."""

    llava: Llava
    strict_loading = False  # checkpoints hold what training changed only, see `state_dict`
    roles: ClassVar[tuple[Role, ...]]
    """What the responses of its rows are; `data.view` must make the same."""
    references: tuple[str, ...] = ()
    """Models whose log-probabilities come with the rows: "" is the run's start, the others are folders of adapters."""

    def __init__(self, backbone: BackboneSettings, optim: OptimSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.optim = optim
        self._means: dict[str, StepMean] = {}
        self._seed = 0
        self._step_count: Tensor | None = None
        self._step_means: dict[str, Tensor] = {}
        self._finite = FiniteSteps(optim.nonfinite_steps)
        self.ends_step = False
        """Whether the optimizer steps behind this micro-batch."""

    @property
    def loss_at_reference(self) -> float | None:
        """The loss where policy and reference are equal, for the preflight to check; None where the method has none."""
        return None

    def configure_model(self) -> None:
        """Load weights here, not in ``__init__``: sharded strategies and ``--help`` need it late."""
        if not hasattr(self, "llava"):  # Lightning calls this hook once per stage
            self.llava = Llava(self.backbone)

    def forward(self, batch: Batch) -> Float[Tensor, " targets"]:
        """Log-probability of each target under the model as it is: the policy, or in its context a reference."""
        return token_logps(self.llava, batch)

    @abstractmethod
    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Return the scalar to minimise and the means to log, `loss` among them."""

    def after_step(self, means: dict[str, Tensor]) -> None:
        """Called once an optimizer step with its means over all micro-batches and ranks: for running values."""

    def reference_logps(self, batch: Batch, number: int = 0) -> Float[Tensor, " targets"]:
        """Log-probability of each target under a reference, from its store.

        Args:
            batch: With `reference_logps`.
            number: Of the reference, in the order of `references`.
        """
        assert len(batch.reference_logps) > number, "no store was attached to the data"
        return batch.reference_logps[number]

    def step_mean(self, total: Float[Tensor, ""], count: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """`total / count` over the whole optimizer step, whatever its cut into micro-batches and ranks.

        In training the total goes on alone; the gradient is divided once the step's count is known.

        Args:
            total: Sum over this micro-batch.
            count: Of what it is a sum.
        """
        if not self.training or self._trainer is None:
            return total / count.clamp_min(1)
        self._step_count = count.detach() + (0 if self._step_count is None else self._step_count)
        return total

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Divide by the step's count, where the loss is a mean over it, and look at the gradients; before clipping."""
        if not self.ends_step:  # DeepSpeed's optimizer is asked after every micro-batch
            return
        if self._step_count is not None:
            # Lightning has divided by the number of micro-batches, and by the number of ranks where there are several.
            parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
            count = self.trainer.strategy.reduce(self._step_count, reduce_op="sum")
            scale_gradients(self, parts / count.clamp_min(1))
            self._step_count = None
        self._finite.check(self)

    def on_fit_start(self) -> None:
        """Remember the run's seed before anything draws from it; complete the stores that the rows come with."""
        self._seed = torch.initial_seed()
        self._prepare_references()

    def on_validation_start(self) -> None:
        """Where only validation runs, complete its stores."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self._prepare_references()

    def _prepare_references(self) -> None:
        if self.references:
            prepare_references(self.llava, self.backbone, self.references, self.trainer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout is a function of (seed, epoch, batch, rank), so a resumed run drops what a whole one would."""
        torch.manual_seed(hash((self._seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)
        self.ends_step = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch; scalars are gathered until the optimizer steps."""
        for refusal in filter(None, batch.refusals):
            _LOG.warning("Left out: %s", refusal)
        loss, metrics = self.compute_loss(batch)
        finite = loss.detach().isfinite()
        self._finite.see(batch.keys, finite)
        counted = {
            name: Mean(value.where(finite, 0), weight.where(finite, 0)) for name, (value, weight) in metrics.items()
        }
        self._gather(counted | {"nonfinite": Mean((~finite).float(), batch.row_weights.sum())})
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move what runs on with the steps: before anybody saves a checkpoint of this one."""
        super().optimizer_step(*args, **kwargs)  # runs the last micro-batch of the step, too
        if not self.ends_step:
            return
        self._step_means = {name: metric.compute() for name, metric in self._means.items()}
        for metric in self._means.values():
            metric.reset()
        if not self._finite.left_out:
            self.after_step(self._step_means)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log means over all micro-batches of the optimizer step."""
        if not self._step_means:
            return
        scalars = {f"train/{name}": value for name, value in self._step_means.items()}
        self._step_means = {}
        self.log_dict({name: value for name, value in scalars.items() if not value.isnan()})
        if not scalars["train/loss"].isnan():
            self.log("loss", scalars["train/loss"], prog_bar=True, logger=False)

    def _gather(self, metrics: dict[str, Mean]) -> None:
        """Every key on every micro-batch, also where no row counts: ranks compute them one by one, in this order."""
        for name, mean in metrics.items():
            self._means.setdefault(name, StepMean()).to(mean.value.device).update(mean)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Means over the validation rows, holes left out."""
        _, metrics = self.compute_loss(batch)
        for name, (value, weight) in metrics.items():
            # On every rank, also where no row counts, or the others would wait for it.
            self.log(f"val/{name}", value, batch_size=int(weight), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember how many steps in a row were left out."""
        checkpoint["nonfinite_steps"] = self._finite.left_out

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not those this config trains: `strict_loading` is off for the frozen ones only."""
        found, expected = set(checkpoint["state_dict"]), set(self.state_dict())
        if strange := sorted(found ^ expected):
            raise ValueError(
                f"The checkpoint's weights are not those that `model.backbone` trains: {strange[0]}. Resume with "
                "the backbone settings of the run, as they stand in its logs/version_*/config.yaml."
            )
        self._finite.left_out = checkpoint.get("nonfinite_steps", 0)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Only what training changed: the frozen LLaVA is reloaded from its own checkpoint."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        state = super().state_dict(*args, **kwargs)
        return {name: t for name, t in state.items() if name in trainable or not name.startswith("llava.")}

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


class ReferenceMethod(AlignmentModule):
    """Base of the methods on pairs that have one reference; `compute_loss` is the subclass's."""

    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self, backbone: BackboneSettings, optim: OptimSettings, reference: Reference = "store", beta: float = 0.1
    ) -> None:
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        self.reference = reference
        self.references = ("",) if reference == "store" else ()
        self.beta = beta

    def reference_logps(self, batch: Batch, number: int = 0) -> Float[Tensor, " targets"]:
        """From the store, or from a forward pass of its own."""
        if self.reference == "store":
            return super().reference_logps(batch, number)
        with torch.no_grad(), self.llava.reference():
            return token_logps(self.llava, batch)


class PairMethod(ReferenceMethod):
    """Base of the methods whose loss is one function of both sides: a subclass writes ``pair_loss``."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.1,
        average_logps: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            average_logps: Compare per-token means of the log-probabilities instead of sums.
        """
        super().__init__(backbone, optim, reference, beta)
        self.average_logps = average_logps

    @abstractmethod
    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        """Loss and rewards of each pair."""

    def target_weights(self, batch: Batch) -> Float[Tensor, " targets"] | None:
        """Weight of each token in its response's sum; None is 1 each."""
        return None

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        weights = self.target_weights(batch)
        policy, reference = (
            pair_logps(sum_responses(tokens, batch, weights=weights), batch, average=self.average_logps)
            for tokens in (token_logps(self.llava, batch), self.reference_logps(batch))
        )
        # Holes stay outside: some losses look at all pairs at once.
        counted = batch.weights_of(Role.CHOSEN) > 0
        output = self.pair_loss(
            *(PairLogps(each.chosen[counted], each.rejected[counted]) for each in (policy, reference))
        )
        output = PairLoss(*(torch.zeros_like(policy.chosen).masked_scatter(counted, values) for values in output))
        return pair_mean(output, batch), preference_metrics(output, policy, batch)


class AnswerMethod(AlignmentModule):
    """Base of the methods that learn answers as they are; they differ in the answers, which are the view's."""

    roles = (Role.ANSWER,)

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Negative log-likelihood, mean over all trained tokens of the step."""
        logps = response_logps(self.llava, batch)
        total, count = sft_loss(policy=logps, weights=batch.row_weights[batch.row_index])
        mean = Mean(total.detach() / count.clamp_min(1), count)
        return self.step_mean(total, count), answer_metrics(mean, logps, batch)


def pair_mean(output: PairLoss, batch: Batch) -> Float[Tensor, ""]:
    """Mean over the pairs of a batch, holes as zero: steps have as many places, so micro-batches add up exactly."""
    return (output.losses * batch.weights_of(Role.CHOSEN)).mean()


def require_positive(**values: float) -> None:
    """Raise where a hyperparameter that must be above 0 is not.

    Args:
        values: By their names in `model`.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"`model.{name}` must be above 0, got {value}.")


def require_smoothing(label_smoothing: float) -> None:
    """Raise where the assumed fraction of flipped labels is none."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"`model.label_smoothing` is the fraction of flipped labels and must lie in [0, 0.5), "
            f"got {label_smoothing}. At 0.5 the labels say nothing; for the plain loss use 0."
        )
