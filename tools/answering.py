"""Who answers: a model here, or a server; the options of each, and that nobody gives one that would do nothing.

Used by  tools/sample.py, tools/evaluation/generate.py
Tests    tests/tools/test_sample.py, tests/tools/test_evaluate_generate.py
"""

import inspect
import os
from collections.abc import Callable, Mapping

MODEL_OPTIONS = ("checkpoint", "adapter", "batch_size", "template", "pad_images", "dtype", "attributes")
"""Of a model here; a server has its own."""
SERVER_OPTIONS = (
    "max_side", "key_env", "key_file", "concurrency", "requests_per_minute", "timeout_s", "tries", "max_cost", "prices",
)  # fmt: skip


def check_answering_options(command: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raise where an option would do nothing, or nothing sensible.

    Args:
        command: Whose parameters the options are.
        given: Their values; `server` says who answers.

    Raises:
        ValueError: Which options, and what to do.
    """
    others = MODEL_OPTIONS if given["server"] is not None else SERVER_OPTIONS
    unused = [f"--{n}" for n in others if given[n] != inspect.signature(command).parameters[n].default]
    if unused and given["server"] is not None:
        raise ValueError(f"{', '.join(unused)}: of a model here, not of `--server`, which has its own. Leave it out.")
    if unused:
        raise ValueError(f"{', '.join(unused)}: only with `--server`. Leave it out, or name a server.")
    if given["server"] is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            "One process is enough to ask a server (`--concurrency` answers at a time): leave torchrun out."
        )
