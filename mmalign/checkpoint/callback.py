"""When to save, and what to do where that fails.

All ranks gather, rank 0 writes, and all learn whether it could. Saves lie between optimizer steps only.

Tests    tests/checkpoint/
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from mmalign.checkpoint.disk import bytes_of, discard, free_bytes, readable, sweep, write_text
from mmalign.checkpoint.drift import description, hashes
from mmalign.checkpoint.elastic import convert_batches, mend_epochs
from mmalign.checkpoint.format import CheckpointError, checkpoint_bytes
from mmalign.checkpoint.optimizer import check_optimizer
from mmalign.checkpoint.resume import LATEST_FILE, checkpoints_of, folder_of, step_name, step_of
from mmalign.checkpoint.retention import Mode, forget_scores, read_scores, remove_others, staying, write_score
from mmalign.checkpoint.rng import RandomState, random_state, restore_random_state
from mmalign.checkpoint.together import gather, on_rank_zero, save
from mmalign.checkpoint.validation import is_due, validate

_LOG = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Saves every few optimizer steps, before validations and at the end, into `<default_root_dir>/checkpoints`."""

    def __init__(
        self,
        every_n_steps: int = 50,
        keep_last: int = 3,
        keep_best: int = 1,
        monitor: str = "val/loss",
        mode: Mode = "min",
        failures: int = 3,
        allow_drift: list[str] | None = None,
    ) -> None:
        """Choose how often, and how many stay.

        Args:
            every_n_steps: Optimizer steps between checkpoints; work lost in a crash, at most.
            keep_last: The newest that stay, at least 1; older ones are deleted once a newer one is whole.
            keep_best: Those that stay besides because they validated best. 0: none, and no save before validations.
            monitor: The metric that says what is best, as it is logged.
            mode: Whether it should be small (`min`) or large (`max`).
            failures: Saves that may fail one after the other, because a disk is full for instance. The run goes on
                from each with a warning and tries again at the next; after so many it ends with an error.
            allow_drift: Names of what may differ between a checkpoint and the run that goes on with it, as the refusal
                lists them; later checkpoints say so.
        """
        for name, value, least in (
            ("every_n_steps", every_n_steps, 1),
            ("keep_last", keep_last, 1),
            ("keep_best", keep_best, 0),
            ("failures", failures, 1),
        ):
            if value < least:
                raise ValueError(f"`checkpoint.{name}` counts something and must be at least {least}, got {value}.")
        self.every_n_steps, self.failures = every_n_steps, failures
        self.keep_last, self.keep_best, self.monitor, self.mode = keep_last, keep_best, monitor, mode
        self.allow_drift = allow_drift or []
        self._config: dict[str, Any] | None = None
        self._resume: Path | None = None
        self._run: dict[str, Any] = {}
        """What `run.json` says besides the step."""
        self._random_states = list[RandomState]()
        """Of all ranks, from the checkpoint."""
        self._validation_due = False
        """Whether one was to follow the checkpoint."""
        self._saved_step = 0
        self._failed = 0
        self._size = 0
        """Bytes of a checkpoint, at most."""

    def describe(self, config: dict[str, Any], resume: Path | None) -> None:
        """Say what the run is; without it checkpoints are not told apart.

        Args:
            config: Of `fit`, as plain values.
            resume: The checkpoint that it goes on from.
        """
        self._config, self._resume = config, resume

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to go on as another run, before any weights are loaded."""
        if self._config is None or stage != TrainerFn.FITTING:
            return
        chosen = gather(str(self._resume))
        if len(set(chosen)) > 1:
            raise CheckpointError(f"Ranks would resume from different checkpoints: {chosen}. Name one by --ckpt_path.")
        config, module, data = self._config, cast(Any, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        precision = str(trainer.precision)
        self._run = on_rank_zero(
            trainer.strategy,
            lambda: description(
                config,
                hashes(module.backbone, module.references, data, precision=precision),
                resume=self._resume,
                allowed=self.allow_drift,
            ),
        )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """On all ranks: add what Lightning does not know of."""
        mend_epochs(checkpoint["loops"])
        checkpoint["run"] = self._run | {"world_size": trainer.world_size}
        checkpoint["accumulation"] = trainer.accumulate_grad_batches
        checkpoint["random_states"] = gather(random_state())
        checkpoint["validation_due"] = is_due(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where training goes on: look at the optimizer, and fit Lightning's counters to the ranks there are."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        check_optimizer(checkpoint, pl_module)
        convert_batches(checkpoint["loops"], saved=checkpoint["accumulation"], here=trainer.accumulate_grad_batches)
        self._random_states = checkpoint["random_states"]
        self._validation_due = checkpoint["validation_due"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore random states, make room, see that there is enough.

        What a run resumes from is saved already; later ones, damaged or left behind, would pass for its newest.
        """
        self._saved_step = trainer.global_step
        trained = sum(getattr(p, "ds_numel", p.numel()) for p in pl_module.parameters() if p.requires_grad)
        self._size = checkpoint_bytes(trained, trainer.world_size)
        on_rank_zero(trainer.strategy, lambda: self._make_room(Path(trainer.default_root_dir), trainer.global_step))
        if self._validation_due and on_rank_zero(trainer.strategy, lambda: not self._is_validated(trainer)):
            rank_zero_info(f"Making up for the validation behind step {trainer.global_step}, which was cut off.")
            validate(trainer)
        if not self._random_states:
            return
        if len(self._random_states) == trainer.world_size:
            restore_random_state(self._random_states[trainer.global_rank])
        else:
            rank_zero_info(
                f"The checkpoint was made by {len(self._random_states)} ranks and goes on with {trainer.world_size}: "
                "they keep the random states of a fresh start. Dropout depends on seed, epoch, batch and rank only."
            )

    def _is_validated(self, trainer: Trainer) -> bool:
        """Whether validation has said something of the checkpoint of this step; also where it lies elsewhere."""
        folder, name = folder_of(Path(trainer.default_root_dir)), step_name(trainer.global_step)
        return not (folder / name).is_dir() or name in read_scores(folder, self.monitor)

    def _make_room(self, run_dir: Path, step: int) -> None:
        folder = folder_of(run_dir)
        sweep(folder)
        for later in checkpoints_of(run_dir):
            if step_of(later) > step:
                aside = later.with_name(f"left-{later.name}")
                rank_zero_info(f"The run goes on from step {step}: {later} is {aside.name} now, delete it if you like.")
                discard(aside)
                later.rename(aside)
        forget_scores(folder, self.monitor)
        there = sum(bytes_of(each) for each in checkpoints_of(run_dir))
        number = self.keep_last + self.keep_best + 1
        needed, free = number * self._size - there, free_bytes(folder)
        if needed > free:
            raise CheckpointError(
                f"Checkpoints need {readable(needed)} more in {folder}: {number} of {readable(self._size)} "
                f"(`checkpoint.keep_last` {self.keep_last}, `checkpoint.keep_best` {self.keep_best}, and one being "
                f"written). Free are {readable(free)}. Make room, keep fewer, or set `trainer.default_root_dir` to a "
                "larger disk."
            )

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save where an optimizer step has just ended and it is time, or validation or the end of `max_steps` follows.

        `on_train_end` is too late for that one: Lightning counts the epoch as done by then, and would resume behind it.
        """
        if not _between_steps(trainer):
            return
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps or self._to_be_validated(trainer):
            self._save(trainer)

    def _to_be_validated(self, trainer: Trainer) -> bool:
        return self.keep_best > 0 and is_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what validation says of the checkpoint of this step."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            if not self.keep_best:
                return
            raise ValueError(
                f"`checkpoint.monitor` is {self.monitor!r}, and validation logged no such metric, but "
                f"{sorted(name for name in trainer.callback_metrics if name.startswith('val/'))}. Set one of these, or "
                "`checkpoint.keep_best` to 0."
            )
        folder = folder_of(Path(trainer.default_root_dir))
        name = step_name(trainer.global_step)
        if trainer.is_global_zero and (folder / name).is_dir():
            self._tend(lambda: write_score(folder, self.monitor, name, float(score)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run; where that fails, the run has."""
        self._save(trainer, last=True)

    def save_now(self, trainer: Trainer) -> bool:
        """Save where an optimizer step has ended, unless this one is saved. All ranks must call it.

        Args:
            trainer: Within `on_train_batch_end`.

        Returns:
            Whether the run could stop here and lose nothing. Within a step: call again at its end.

        Raises:
            CheckpointError: It could not be written.
        """
        if _between_steps(trainer):
            self._save(trainer, last=True)
        return trainer.global_step == self._saved_step

    def _save(self, trainer: Trainer, *, last: bool = False) -> None:
        if trainer.global_step == self._saved_step:
            return
        run_dir = Path(trainer.default_root_dir)
        target = folder_of(run_dir) / step_name(trainer.global_step)
        error = save(trainer, target)
        if error is None:
            self._saved_step, self._failed = trainer.global_step, 0
            if trainer.is_global_zero:
                self._tend(lambda: self._rotate(run_dir, target))
            return
        self._failed += 1
        free = readable(free_bytes(run_dir))
        said = (
            f"{target} could not be written ({error}): it needs up to {readable(self._size)}, free are {free}. Earlier "
            "checkpoints are as they were."
        )
        if last or self._failed >= self.failures:
            tries = "the end of the run is not saved" if last else f"{self._failed} saves in a row have failed"
            raise CheckpointError(f"{said} The run ends, {tries}: make room and go on with `--ckpt_path last`.")
        if trainer.is_global_zero:
            _LOG.warning(
                "%s The run goes on and tries again at the next; it ends after %d failures in a row "
                "(`checkpoint.failures`), this is number %d. Make room.",
                said,
                self.failures,
                self._failed,
            )

    def _rotate(self, run_dir: Path, newest: Path) -> None:
        folder, found = folder_of(run_dir), checkpoints_of(run_dir)
        write_text(folder / LATEST_FILE, f"{newest.name}\n")
        scores = read_scores(folder, self.monitor) if self.keep_best else {}
        names = [each.name for each in found]
        stay = staying(names, scores, keep_last=self.keep_last, keep_best=self.keep_best, mode=self.mode)
        remove_others(found, stay)

    def _tend(self, act: Callable[[], None]) -> None:
        """Do what is not needed to resume: a failure is told, and no more."""
        try:
            act()
        except OSError as error:
            _LOG.warning("Checkpoints are whole, but tidying up beside them failed: %s", error)


def _between_steps(trainer: Trainer) -> bool:
    """Whether the batch that is about to end was the last one of an optimizer step."""
    return not trainer.fit_loop._should_accumulate()
