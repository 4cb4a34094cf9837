"""What the report knows about single benchmarks: the paper's table, scales, and which of them tell the alignment tax.

Paper   Multi-modal preference alignment remedies regression of visual instruction tuning on language model,
        https://arxiv.org/abs/2402.10884, Table 2
"""

from collections.abc import Mapping
from typing import NamedTuple

ORDER = ("mt_bench", "alpaca_eval", "mm_vet", "llava_bench", "pope", "mmbench")
"""Columns of the paper's table; all others stand behind them."""
TAXED = {"mmbench": "MMBench", "text": "text knowledge", "mt_bench": "MT-Bench"}
"""What a model knew and could do before, and preferences about pictures do not aim at: name -> words."""
TAXED_PARTS = {("world", "text_accuracy"): "text tasks of the embedded world"}
"""The same of one metric of a benchmark."""
TOP = {"mt_bench": 10.0, "noisy_mt_bench": 10.0, "mmhal": 6.0}
"""Best value of headlines that are no shares."""


class Published(NamedTuple):
    """The paper's LLaVA-1.5-13B before and after DPO."""

    base: float
    aligned: float


PUBLISHED: Mapping[str, Published] = {
    "mt_bench": Published(5.99, 6.73),
    "alpaca_eval": Published(0.793, 0.864),
    "mm_vet": Published(0.363, 0.412),
    "llava_bench": Published(0.731, 0.791),
    "pope": Published(0.859, 0.870),
    "mmbench": Published(0.674, 0.668),
}


def place(name: str) -> tuple[int, str]:
    """Sorts benchmarks as the table has them: the paper's first, the others by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
