"""Base and aligned in one set of weights: the adapter is switched off for the base's turn.

Tests   tests/tools/test_evaluate.py
"""

import json
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, cast

import peft
import torch
import transformers
from peft import PeftModel

import mmalign
from mmalign.generate import Prompt, Sampling, generate
from mmalign.sampling.policy import load_policy
from mmalign.steering import Attributes
from mmalign.template import TemplateName


class BaseAndAligned:
    """A LLaVA with one adapter on it, answering as either."""

    def __init__(
        self,
        checkpoint: str,
        adapter: Path,
        *,
        template: TemplateName | None = None,
        pad_images: bool | None = None,
        dtype: torch.dtype = torch.float32,
        attributes: Attributes | None = None,
    ) -> None:
        """Load both; see `load_policy` for the arguments.

        Raises:
            FileNotFoundError: No checkpoint or no adapter there.
            ValueError: The adapter belongs to another model, or was not trained to be asked for attributes.
        """
        self.adapter = adapter
        self.policy = load_policy(
            checkpoint, adapter, template=template, pad_images=pad_images, dtype=dtype, attributes=attributes
        )
        self.template, self.trained, self.steering = self.policy.template, self.policy.trained, self.policy.steering
        self.model = cast(PeftModel, self.policy.model)

    def answer(
        self, who: Literal["base", "aligned"], prompts: Sequence[Prompt], sampling: Sampling, *, batch_size: int
    ) -> list[str]:
        """One model's answers.

        Args:
            who: Which of the two. An aligned model of SteerLM is asked for its attributes besides.
            prompts: The same for both.
            sampling: How both decode.
            batch_size: Prompts that run together.
        """
        if who == "aligned" and self.steering is not None:
            prompts = [prompt._replace(messages=self.steering.ask(prompt.messages)) for prompt in prompts]
        with self.model.disable_adapter() if who == "base" else nullcontext():
            return generate(self.model, self.template, prompts, sampling, batch_size=batch_size)

    def base_identity(self) -> dict[str, str]:
        """What the base's answer depends on, apart from task and decoding."""
        return self.policy.base_identity

    def identity(self) -> dict[str, str]:
        """What both answers depend on, apart from task and decoding."""
        return {name: value for name, value in self.policy.identity.items() if name != "attributes"}

    def decoding(self, how: str) -> dict[str, str]:
        """How the aligned model was asked, for an identity or a lineage; the base is never asked for attributes."""
        return {"decoding": how} | ({} if self.steering is None else {"attributes": self.steering.text()})

    def lineage(self) -> dict[str, str]:
        """Where the numbers came from, for `scores.json`."""
        trained = {f"training: {name}": _plain(value) for name, value in self.trained.items() if name != "versions"}
        versions = {module.__name__: module.__version__ for module in (mmalign, torch, transformers, peft)}
        return (
            {"adapter": str(self.adapter)}
            | self.identity()
            | trained
            | versions
            | {"python": platform.python_version()}
        )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
