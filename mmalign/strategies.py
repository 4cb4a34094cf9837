"""DeepSpeed ZeRO-3 under Lightning for a frozen LLaVA with adapters, on GPUs and, for tests, on CPU ranks.

    base weights    read by rank 0, cut among the ranks while they load; whole only while their layer runs
    adapters        put on afterwards, float32, cut when training begins; so are their gradients and moments
    checkpoints     whole tensors in the layout of a plain run: they resume on any number of ranks, and on one process

Lightning's `DeepSpeedStrategy` does the work; each override says what of it does not fit.

Tests    tests/test_zero3.py
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast
from unittest import mock

import torch
from lightning import LightningModule
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from lightning.pytorch.strategies import deepspeed as lightning_deepspeed
from torch import Tensor, nn
from torch.optim import Optimizer

from mmalign.sharding import gathered

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, for each parameter; beside them `step`."""
PRECISIONS = ("32-true", "bf16-mixed")
TIMEOUT = timedelta(minutes=30)
"""Ranks wait so long for one another before they give up: longer than a checkpoint, shorter than a night."""


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies under which adapters, step means or checkpoints would not be what they are elsewhere.

    Raises:
        ValueError: It is one of them.
    """
    if not (isinstance(strategy, Zero3Strategy | SingleDeviceStrategy) or type(strategy) is DDPStrategy):
        raise ValueError(
            f"`trainer.strategy` {type(strategy).__name__} is not among those that mmalign is tested under: `auto` for "
            "one device, `ddp` where each device holds the whole model, `zero3` where they share one. Lightning's own "
            "DeepSpeed strategies start adapters as noise, and FSDP keeps optimizer states that others cannot resume."
        )


class AdapterPrecision(DeepSpeedPrecision):
    """Autocast over float32 adapters on frozen weights of their own dtype, as without sharding."""

    def convert_input(self, data: Any) -> Any:
        """As it is: Lightning would make all floats of a batch bfloat16, reference log-probabilities among them."""
        return data

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Lightning 2.6 has divided by the number of micro-batches; DeepSpeed must not do it once more."""
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed", cache_enabled=False):
            yield


@StrategyRegistry.register("zero3", description="ZeRO-3: weights, gradients and moments cut among GPUs")
class Zero3Strategy(DeepSpeedStrategy):
    """ZeRO-3 for a frozen model with adapters."""

    def __init__(self, zero: dict[str, Any] | None = None, timeout: timedelta = TIMEOUT, **kwargs: Any) -> None:
        """Choose what DeepSpeed may be told.

        Args:
            zero: Entries of DeepSpeed's `zero_optimization`, over Lightning's, for instance
                `{stage3_prefetch_bucket_size: 20_000_000}`.
            timeout: After which a rank that waits for another one gives up.
            **kwargs: What Lightning hands every strategy.
        """
        super().__init__(
            stage=3,
            timeout=timeout,
            logging_batch_size_per_gpu=1,  # "auto" asks the loader for a batch size that ours does not have
            **kwargs,
        )
        assert isinstance(self.config, dict)
        self.config["zero_optimization"] |= zero or {}
        self._engines = list[Any]()
        """Of this stage or the last one."""
        self._loading: Any = None

    @property
    def precision_plugin(self) -> Precision:
        """Ours in place of the one that Lightning chooses."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if plugin is not None and plugin.precision not in PRECISIONS:
            raise ValueError(
                f"`trainer.precision` {plugin.precision} does not go with ZeRO-3 here: adapters and optimizer stay "
                f"float32. Set one of {', '.join(PRECISIONS)}."
            )
        self._precision_plugin = None if plugin is None else AdapterPrecision(cast(Any, plugin.precision))

    def _format_config(self) -> None:
        """Without DeepSpeed's own bfloat16 mode: what trains is float32, and so are its gradients and their sums."""
        super()._format_config()
        assert isinstance(self.config, dict)
        for mode in ("bf16", "fp16"):
            self.config.pop(mode, None)

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Weights are cut while transformers loads them; adapters are not.

        Under Lightning's blanket `zero.Init`, PEFT would set up tensors that are empty already: adapters would start
        as noise (https://github.com/huggingface/transformers/issues/28770).
        """
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        self._init_config_if_needed()
        self._loading = HfDeepSpeedConfig(self.config)  # transformers and PEFT look for it, as long as it lives
        yield

    def teardown(self) -> None:
        """Whatever is loaded afterwards in this process is whole again."""
        self._loading = None
        super().teardown()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Before: adapters are whole until the engine takes them."""
        return False

    def _init_optimizers(self) -> tuple[Optimizer, Any]:
        optimizer, scheduler = super()._init_optimizers()
        self._groups = [list(group["params"]) for group in optimizer.param_groups]  # the engine puts flat ones there
        return optimizer, scheduler

    def _initialize_deepspeed_train(self, model: nn.Module) -> None:
        super()._initialize_deepspeed_train(model)
        self._engines.append(self.model)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Let the engine of an earlier stage take its own hooks off.

        Lightning takes all off, those too with which transformers collects hidden states: LLaVA needs them.
        """
        while self._engines:
            self._engines.pop().destroy()
        with mock.patch.object(lightning_deepspeed, "remove_module_hooks"):
            super()._initialize_deepspeed_inference(model)
        self._engines.append(self.model)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What training changed, whole, on every rank."""
        assert self.lightning_module is not None
        with gathered(self._trained()):
            return {name: tensor.detach().cpu() for name, tensor in self.lightning_module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        with gathered(self._trained(), write=True):
            self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """As any other strategy: rank 0 writes what all have gathered."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State of the optimizer as a plain AdamW over whole parameters has it. All ranks must call it.

        Args:
            optimizer: DeepSpeed's, around ours.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        zero = cast(Any, optimizer)
        state, groups, number = dict[int, dict[str, Tensor]](), list[dict[str, Any]](), 0
        for group, parameters in zip(zero.optimizer.param_groups, self._groups, strict=True):
            groups.append({name: value for name, value in group.items() if name != "params"})
            groups[-1]["params"] = list(range(number, number + len(parameters)))
            for parameter in parameters:
                flat = zero.optimizer.state.get(_flat(zero, parameter))
                if flat:
                    state[number] = {"step": flat["step"].cpu().clone()}
                    for name in MOMENTS:
                        whole = safe_get_full_optimizer_state(parameter, name)
                        if self.is_global_zero:  # nobody else needs them
                            state[number][name] = whole.view(parameter.ds_shape).cpu()
                number += 1
        return {"state": state, "param_groups": groups}

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's part of every moment. Raises `ValueError` where they are not those of our parameters."""
        from deepspeed.utils import safe_set_local_optimizer_state

        (optimizer,), (saved,) = self.optimizers, checkpoint["optimizer_states"]
        zero, number = cast(Any, optimizer), 0
        for group, parameters, found in zip(
            zero.optimizer.param_groups, self._groups, saved["param_groups"], strict=True
        ):
            group |= {name: value for name, value in found.items() if name != "params"}
            for parameter in parameters:
                if whole := saved["state"].get(number):
                    flat = _flat(zero, parameter)
                    state = zero.optimizer.state[flat]
                    state.setdefault("step", whole["step"].clone())
                    for name in MOMENTS:
                        state.setdefault(name, torch.zeros_like(flat))
                        safe_set_local_optimizer_state(parameter, self._part(whole[name], parameter), name)
                number += 1

    def _part(self, whole: Tensor, parameter: Any) -> Tensor:
        """This rank's part of a tensor of a parameter's shape; the last one is padded with zeros."""
        if whole.shape != parameter.ds_shape:
            raise ValueError(
                f"The checkpoint's optimizer has moments of shape {tuple(whole.shape)} where this run trains "
                f"{tuple(parameter.ds_shape)}. Resume with the `model.backbone` it was made with."
            )
        size = parameter.ds_tensor.numel()
        part = whole.flatten()[self.global_rank * size : (self.global_rank + 1) * size]
        return torch.nn.functional.pad(part, (0, size - part.numel()))

    def _trained(self) -> list[nn.Parameter]:
        assert self.lightning_module is not None
        return [parameter for parameter in self.lightning_module.parameters() if parameter.requires_grad]


def _flat(zero: Any, parameter: Any) -> Tensor:
    """The flat tensor in which DeepSpeed's optimizer keeps this rank's part of a parameter, among others."""
    group, _, _ = zero.grad_position[zero.get_param_id(parameter)]
    flat: Tensor = zero.fp32_partitioned_groups_flat[group]
    return flat


@StrategyRegistry.register("zero3_cpu", description="ZeRO-3 on CPU ranks over gloo, for tests")
class CPUZero3Strategy(Zero3Strategy):
    """The same on CPU ranks, with nothing kept whole between layers: a tiny model would stay whole otherwise."""

    def __init__(self, zero: dict[str, Any] | None = None, timeout: timedelta = TIMEOUT, **kwargs: Any) -> None:
        """As `Zero3Strategy`.

        Args:
            zero: See there.
            timeout: See there.
            **kwargs: See there.
        """
        released = {
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": 0,
        }
        super().__init__(zero=released | (zero or {}), timeout=timeout, **kwargs)
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled for a minute; gloo does it

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # DeepSpeed compares its index with 0

    def setup_environment(self) -> None:
        """Without the check for GPUs."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Without the check of device numbers."""
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
