"""All benchmarks by name; a new one is a file here and a line there.

Tests   tests/evaluation/benchmarks/test_registry.py
"""

import importlib
from collections.abc import Mapping
from typing import Any

BENCHMARKS: Mapping[str, str] = {
    "pope": "pope.Pope",
    "mmbench": "mmbench.MMBench",
    "mm_vet": "mm_vet.MMVet",
    "llava_bench": "llava_bench.LlavaBench",
    "llava_table": "llava_table.LlavaTable",
    "mt_bench": "mt_bench.MTBench",
    "noisy_mt_bench": "noisy_mt_bench.NoisyMTBench",
    "alpaca_eval": "alpaca_eval.AlpacaEval",
    "mmhal": "mmhal.MMHal",
    "chair": "chair.Chair",
    "object_halbench": "object_halbench.ObjectHalBench",
    "amber": "amber.Amber",
    "hallusion": "hallusion.HallusionBench",
    "text": "text.TextKnowledge",
    "world": "world.World",
}
"""Name -> module and class, imported when asked for."""


def benchmark_class(name: str) -> type[Any]:
    """The class of a benchmark: a frozen dataclass that is a `Benchmark`.

    Raises:
        ValueError: There is none of that name; all are listed.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"No benchmark {name!r}. There are {', '.join(BENCHMARKS)}.")
    module, _, kind = BENCHMARKS[name].rpartition(".")
    found: type[Any] = getattr(importlib.import_module(f"mmalign.evaluation.benchmarks.{module}"), kind)
    return found
