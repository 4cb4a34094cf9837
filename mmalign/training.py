"""Lightning's CLI for mmalign: links what must agree, finds the run's directory, resumes exactly."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmalign.checkpoint import Checkpoints, DirectoryCheckpointIO, resolve_resume
from mmalign.configs import SHIPPED
from mmalign.data.datamodule import ShardData
from mmalign.logs import SteadyCSV, SteadyTensorBoard
from mmalign.methods.base import AlignmentModule
from mmalign.planned import RoomCheck
from mmalign.preflight import Preflight
from mmalign.signals import Signals, StopAtStep
from mmalign.speed import Throughput
from mmalign.strategies import check_strategy
from mmalign.watchdog import Watchdog

DEFAULTS = SHIPPED / "defaults.yaml"
"""What every method's config stands on."""
COMMANDS = ("fit", "validate", "reference")
BACKBONE_FIELDS = ("checkpoint", "template", "pad_images")
"""What the data must know of the backbone: derived, never typed twice."""


class AlignmentTrainer(Trainer):
    """Lightning's, with one more thing to do."""

    def reference(self, model: AlignmentModule, datamodule: ShardData) -> None:
        """Compute the reference log-probabilities that `fit` would need, and stop where it would take its first step.

        Args:
            model: The method.
            datamodule: Its data.
        """
        self.limit_train_batches, self.limit_val_batches, self.num_sanity_val_steps = 0, 0, 0
        self.fit(model, datamodule=datamodule)


class TrainingCLI(LightningCLI):
    """`mmalign fit`, `mmalign validate` and `mmalign reference`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and ours."""
        return LightningCLI.subcommands() | {"reference": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the preflight and the checkpoints to the config, and link the backbone's settings to the data."""
        parser.add_lightning_class_args(Preflight, "preflight")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Watchdog, "watchdog")
        for name in BACKBONE_FIELDS:
            parser.link_arguments(f"model.init_args.backbone.{name}", f"data.{name}")

    def _parse_ckpt_path(self) -> None:
        """Lightning would unpickle a file here to look for hyperparameters; ours are never in a checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Fix the run's directory, and turn `--ckpt_path last|auto` into a checkpoint. Only `fit` saves its config."""
        if self.subcommand != "fit":
            self.save_config_callback = None  # a run's newest config is what it was trained with
        config = self.config[self.subcommand]
        run_dir = Path(config.trainer.default_root_dir or ".")
        if self.subcommand == "fit" or config.get("ckpt_path"):
            resume = resolve_resume(config.ckpt_path, run_dir)
            config.ckpt_path = str(resume) if resume else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add our checkpoint format, and CSV and TensorBoard logs where no other logger is asked for."""
        config = self.config_init[self.subcommand].trainer
        run_dir = config.default_root_dir or "."
        if self.subcommand == "reference":
            kwargs["logger"] = False  # nothing is trained, so no run begins
        elif config.logger is None:
            table = SteadyCSV(run_dir, name="logs")  # every start of a run has a version of its own
            kwargs["logger"] = [table, SteadyTensorBoard(run_dir, name="logs", version=table.version)]
        plugins = [config.plugins] if config.plugins and not isinstance(config.plugins, list) else config.plugins or []
        try:
            return super().instantiate_trainer(plugins=[*plugins, DirectoryCheckpointIO()], **kwargs)
        except MisconfigurationException as error:
            raise ValueError(
                f"{error} The config wants `trainer.accelerator` {config.accelerator} with {config.devices} devices. "
                "Set what this machine has, or lay `--config scale/tiny.yaml` over it (embedded model, CPU)."
            ) from error

    def before_fit(self) -> None:
        """Cut the global batch into micro-batches for the ranks there are; no `data.val_shards`, no validation."""
        self._describe_run()
        check_strategy(self.trainer.strategy)
        check_epochs(self.trainer)
        check_method(self.model, self.datamodule, precision=str(self.trainer.precision))
        self.trainer.accumulate_grad_batches = self.datamodule.accumulation(self.trainer.world_size)
        if not self.datamodule.val_sources:
            self.trainer.limit_val_batches = 0

    def _describe_run(self) -> None:
        """Tell the checkpoints what the run is, and what it goes on from."""
        config = self.config[self.subcommand]
        written = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        resume = Path(config.ckpt_path) if config.ckpt_path else None
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.describe(written, resume)

    def before_validate(self) -> None:
        """Refuse a strategy that nothing is tested under."""
        check_strategy(self.trainer.strategy)

    def before_reference(self) -> None:
        """Refuse a method that asks no reference."""
        check_strategy(self.trainer.strategy)
        check_method(self.model, self.datamodule, precision=str(self.trainer.precision))
        if not self.model.references:
            raise ValueError(
                f"{type(self.model).__name__} reads no reference log-probabilities from a store, so there are none to "
                "compute. `mmalign fit` needs nothing beforehand."
            )


def check_epochs(trainer: Trainer) -> None:
    """Refuse what would end epochs within an optimizer step, part the ranks, or leave the schedule without an end."""
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        raise ValueError(
            "`trainer.val_check_interval` is a time: ranks would look at their own clocks, and validate apart. Give a "
            "number of batches, or a share of an epoch."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"`trainer.accumulate_grad_batches` is {trainer.accumulate_grad_batches}. mmalign derives it from "
            "`data.batch_size` (rows per optimizer step, over all ranks) and `data.micro_batch_size`; set those."
        )
    if trainer.max_epochs == trainer.max_steps == -1:
        raise ValueError(
            "`trainer.max_epochs` and `trainer.max_steps` are both -1: set one, the schedule needs an end."
        )
    for name, neutral in (("limit_train_batches", 1.0), ("overfit_batches", 0.0)):
        value = getattr(trainer, name)
        if value != neutral and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ValueError(f"`trainer.{name}` is {value}: epochs would end within a step. Set `trainer.max_steps`.")


def check_method(method: AlignmentModule, data: ShardData, *, precision: str) -> None:
    """Refuse rows that the method cannot train on, and a precision that its weights cannot have."""
    wanted, made = ([role.name.lower() for role in each.roles] for each in (method, data.view))
    if wanted != made:
        raise ValueError(
            f"{type(method).__name__} trains on rows of {wanted}, but `data.view` ({type(data.view).__name__}) makes "
            f"{made}. Choose another view."
        )
    if method.backbone.dtype == "bfloat16" and precision != "bf16-mixed":
        raise ValueError(
            f"`model.backbone.dtype` bfloat16 needs `trainer.precision` bf16-mixed, got {precision}: the adapters stay "
            "float32, and meet the weights under autocast."
        )


def run_trainer(args: Sequence[str], cli: type[TrainingCLI] = TrainingCLI, *, run: bool = True) -> TrainingCLI:
    """Parse a config, build the method and its data, run one of `COMMANDS`.

    Args:
        args: Subcommand and options, as LightningCLI takes them.
        cli: What builds and runs.
        run: False takes the options of `fit`, without a subcommand, and runs nothing.
    """
    # Ours is the documented door, and `args` is how it hands the command line on.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # `--help` shows dataclass field docs
    # Lightning turns it on: `--data.shards https://...` would become what that address answers.
    set_parsing_settings(config_read_mode_fsspec_enabled=False)
    defaults = {"default_config_files": [str(DEFAULTS)]}
    signals = Signals()
    build = partial(
        cli,
        model_class=AlignmentModule,
        trainer_class=AlignmentTrainer,
        datamodule_class=ShardData,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [LearningRateMonitor("step"), Throughput(), RoomCheck(), StopAtStep(signals)]},
        parser_kwargs=dict.fromkeys(COMMANDS, defaults) if run else defaults,
        args=list(args),
        run=run,
    )
    with signals.caught():
        return build()
