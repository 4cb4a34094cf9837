"""Base and aligned, for a suite: a checkpoint and its adapter here, or two names on a server.

Tests   tests/tools/test_evaluate_suite.py
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmalign.api.endpoint import Endpoint
from mmalign.evaluation.steps.generating import Answerer
from mmalign.evaluation.steps.generating_server import EndpointAnswerer

Who = Literal["base", "aligned"]
SIDES: tuple[Who, ...] = ("base", "aligned")


@dataclass(frozen=True, kw_only=True)
class Served:
    """Both models behind one OpenAI-compatible address, as `mmalign serve` has them."""

    url: str
    """Base address, such as http://localhost:8000/v1."""
    aligned: str
    """The aligned model's name there."""
    base: str = "base"
    """The base's name there."""
    key_env: str = ""
    """Environment variable that holds the API key, if the server wants one."""
    concurrency: int = 16
    """Answers asked for at the same time."""
    timeout_s: float = 120.0
    """Seconds that one answer may take."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """A checkpoint, and the adapter that aligns it."""

    checkpoint: str
    adapter: Path
    template: Literal["vicuna_v1", "llava_hf"] | None
    pad_images: bool | None
    dtype: Literal["float32", "bfloat16"]
    attributes: Mapping[str, int] | None
    batch_size: int


def answerer(who: Who, models: Local | Served, folder: Path, seed: int) -> Answerer:
    """One of the two; a model here is loaded when it first has to answer.

    Args:
        who: Which.
        models: Both.
        folder: Where a server's replies are kept.
        seed: Of answers that are drawn.

    Raises:
        FileNotFoundError, ValueError: See `load_policy`.
    """
    if isinstance(models, Served):
        if not models.url.startswith(("http://", "https://")):
            raise ValueError(f"`--served.url` must be an address like http://localhost:8000/v1, got {models.url!r}.")
        endpoint = Endpoint(
            model=getattr(models, who),
            url=models.url,
            key_env=models.key_env,
            concurrency=models.concurrency,
            timeout_s=models.timeout_s,
        )
        return EndpointAnswerer(endpoint, folder / "replies" / "answers", seed=seed, max_side=None)
    import torch

    from mmalign.evaluation.steps.generating_local import PolicyAnswerer
    from mmalign.sampling.policy import load_policy

    aligned = load_policy(
        models.checkpoint,
        models.adapter,
        template=models.template,
        pad_images=models.pad_images,
        dtype=getattr(torch, models.dtype),
        attributes=models.attributes,
    )
    if who == "aligned":
        return PolicyAnswerer(aligned, batch_size=models.batch_size, seed=seed)
    base = load_policy(
        models.checkpoint,
        template=aligned.template.name,
        pad_images=aligned.template.processor.image_processor.do_pad,
        dtype=aligned.dtype,
    )
    return PolicyAnswerer(base, batch_size=models.batch_size, seed=seed)


def training(model: Answerer) -> dict[str, str]:
    """Where an aligned model here came from: shards, reference, method, as its export says; empty for others."""
    policy = getattr(model, "policy", None)
    if policy is None or policy.adapter is None:
        return {}
    known = {name: value for name, value in policy.trained.items() if name != "versions"}
    return {"adapter": str(policy.adapter)} | {
        f"training: {name}": value if isinstance(value, str) else json.dumps(value) for name, value in known.items()
    }
