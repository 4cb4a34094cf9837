"""What a training step allocates, seen without doing it: every tensor is a fake one that has a size and no values.

A LLaVA of any size goes through its real forward and backward pass on torch's `FakeTensorMode` in seconds, and each
allocation and release of a storage is counted. Nothing of a kernel's own is seen. Dropout is that of a GPU.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaModel

from mmalign.attention import response_mask
from mmalign.backbone import BackboneSettings, Llava, fresh_config, recompute
from mmalign.batch import Batch
from mmalign.logps import response_logps


class Step(NamedTuple):
    """Bytes of a forward and backward pass, weights apart."""

    kept: int
    """Alive between forward and backward."""
    peak: int
    """Most that was alive at one time, gradients included."""
    gradients: int
    """Of all trained weights, in the end."""


class Allocations(TorchDispatchMode):
    """Counts bytes of storages that come and go while it is on."""

    def __init__(self, apart: set[int]) -> None:
        """Start at nothing.

        Args:
            apart: Storages that do not count.
        """
        super().__init__()
        self.now = self.peak = 0
        self._apart, self._alive = apart, dict[int, int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._apart or key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def adapted(config: LlavaConfig, settings: BackboneSettings, *, device: str) -> Llava:
    """A LLaVA of random weights with its adapters, as `Llava` makes one of a checkpoint.

    Args:
        config: Its sizes.
        settings: Adapters and dtype; the checkpoint is not read.
        device: `meta` takes no memory.
    """
    with torch.device(device):
        base = LlavaForConditionalGeneration._from_config(
            config, attn_implementation="sdpa", dtype=getattr(torch, settings.dtype)
        )
        model = get_peft_model(base, fresh_config(settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    recompute(base.model.language_model, float(settings.gradient_checkpointing))
    return Llava(model)


def loss_of(llava: Llava, batch: Batch, *, autocast: bool) -> Tensor:
    """Some loss of all targets, under the precision of a run."""
    device = batch.input_ids.device.type
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        return response_logps(llava, batch).sums.mean()


def traced_step(config: LlavaConfig, settings: BackboneSettings, batch: Batch) -> Step:
    """Allocations of a step.

    Args:
        config: The sizes of the model.
        settings: Its adapters; under bfloat16 weights, products run in bfloat16.
        batch: Rows of that model.
    """
    llava = adapted(config, settings, device="meta")
    mask = response_mask(batch.segment_ids)
    with FakeTensorMode() as mode, ExitStack() as stack:
        _pretend(llava)
        weights = {parameter.untyped_storage()._cdata for parameter in llava.parameters()}
        batch = Batch(*(mode.from_tensor(each) if isinstance(each, Tensor) else each for each in batch))
        stack.enter_context(_without_values(mode.from_tensor(mask), config.image_token_id))
        counted = stack.enter_context(Allocations(weights))
        loss = loss_of(llava, batch, autocast=settings.dtype == "bfloat16")
        kept = counted.now
        loss.backward()
    gradients = [parameter.grad for parameter in llava.parameters() if parameter.grad is not None]
    return Step(kept=kept, peak=counted.peak, gradients=sum(each.untyped_storage().nbytes() for each in gradients))


def saved_bytes(llava: Llava, work: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass saves for its backward pass, each storage once, the model's own apart.

    Args:
        llava: The model.
        work: The forward pass.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in llava.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # held, so that no other one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss = work()
    return sum(storage.nbytes() for storage in saved.values())


def _pretend(module: nn.Module) -> None:
    """Turn parameters on the meta device into fake ones on the CPU; inside a `FakeTensorMode`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@contextmanager
def _without_values(mask: Tensor, image_token: int) -> Iterator[None]:
    """What the step asks of its values, answered beforehand; and dropout as a GPU does it, a byte for each value."""

    def image_positions(self: Any, input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        return (input_ids == image_token).unsqueeze(-1)

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        kept: Tensor = torch.native_dropout(values, p, training)[0] if training and p else values
        return kept

    with (
        patch("mmalign.backbone.response_mask", lambda segment_ids: mask),
        patch.object(LlavaModel, "get_placeholder_mask", image_positions),
        patch("torch.nn.functional.dropout", dropout),
    ):
        yield
