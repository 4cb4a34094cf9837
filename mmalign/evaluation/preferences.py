"""Preference pairs of any shard set: does base or aligned find the chosen answer likelier?

    {"id": "000000.tar/dev-17", "base_chosen": -3.1, "base_rejected": -2.9, "aligned_chosen": ..., ...}

Log-probabilities are those of the training: the prompt once, both answers behind it, summed over an answer's tokens.

Tests   tests/tools/test_evaluate.py
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from mmalign.backbone import Llava
from mmalign.batch import Batch, Logps, PairLogps
from mmalign.data.collate import Collator
from mmalign.data.records import RecordFile
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.views import Pairs
from mmalign.evaluation.models import BaseAndAligned
from mmalign.evaluation.paired import Direction, Measure, Ratio
from mmalign.logps import pair_logps, response_logps

PAIRS_FILE = "pairs.jsonl"
MAX_LENGTH = 3000
"""Tokens of a prompt and one answer, as in the production config; a longer pair is an error, never cut."""
GROUP = "Held-out preference pairs"


class PairScore(NamedTuple):
    """Log-probabilities (nats, summed) of one pair under both models, and the answers' lengths in tokens."""

    id: str
    base_chosen: float
    base_rejected: float
    aligned_chosen: float
    aligned_rejected: float
    chosen_length: int
    rejected_length: int


def score_pairs(
    models: BaseAndAligned,
    shards: str,
    out: Path,
    *,
    batch_size: int,
    overwrite: bool,
    progress: Callable[[int, int], None],
) -> list[PairScore]:
    """Score every pair that is not scored yet; returns all, in manifest order.

    Args:
        models: Base and aligned.
        shards: A shard set with pairs.
        out: Where `pairs.jsonl` grows.
        batch_size: Pairs that run together.
        overwrite: See `RecordFile`.
        progress: Called with the number of pairs done and of all.

    Raises:
        FileNotFoundError, ValueError: No shards there, no pair in them, or a broken sample; each named.
    """
    rows = RowSet([Source(path=shards)], Pairs(), config_key="--shards")
    identity = models.identity() | {"shards": shards, "manifest": rows.manifest_hash}
    file = RecordFile(out / PAIRS_FILE, PairScore, identity, overwrite=overwrite)
    encoder = RowEncoder(models.template, max_length=MAX_LENGTH)
    collator = Collator(pad_token_id=models.template.tokenizer.pad_token_id)
    llava = Llava(models.model).eval()
    ids = list[str]()
    for numbers in _chunks(range(len(rows)), batch_size):
        read = [row for number in numbers for row in rows[number]]
        ids += [row.key for row in read]
        missing = [row for row in read if row.key not in file.records]
        if missing:
            file.append(_score(llava, collator([encoder(row) for row in missing])))
        progress(len(ids), len(rows))
    return [file.records[key] for key in ids]


def preference_measures(scored: Sequence[PairScore]) -> list[Measure]:
    """Measures of agreement with the preferences; ties count half."""
    pairs = np.array([pair[1:] for pair in scored], float).T
    base_chosen, base_rejected, aligned_chosen, aligned_rejected, chosen_length, rejected_length = pairs
    base, aligned = base_chosen - base_rejected, aligned_chosen - aligned_rejected
    base_mean = base_chosen / chosen_length - base_rejected / rejected_length
    aligned_mean = aligned_chosen / chosen_length - aligned_rejected / rejected_length
    even = np.zeros_like(base)
    return [
        _measure("preference_accuracy", "Chosen answer likelier", _wins(base), _wins(aligned),
                 "Share of pairs whose chosen answer has the larger log-probability."),
        _measure("preference_accuracy_mean", "Chosen answer likelier, per token", _wins(base_mean), _wins(aligned_mean),
                 "The same with log-probabilities divided by the number of tokens."),
        _measure("logp_margin", "Margin in nats", base, aligned,
                 "Mean of log p(chosen) minus log p(rejected).", percent=False),
        _measure("reward_accuracy", "Chosen answer gained more", _wins(even), _wins(aligned - base),
                 "Share of pairs whose chosen answer gained more on the base than the rejected one; the base has 50 % "
                 "by definition."),
    ]  # fmt: skip


@torch.inference_mode()
def _score(llava: Llava, batch: Batch) -> list[PairScore]:
    device = next(llava.parameters()).device
    moved: Batch = move_data_to_device(batch, device)
    columns = list[list[list[float]]]()
    for off in (True, False):
        with llava.reference() if off else nullcontext():
            logps = response_logps(llava, moved)
        columns.append(_by_pair(pair_logps(logps, moved)))
    columns.append(_by_pair(pair_logps(Logps(logps.lengths, logps.lengths), moved)))
    return [
        PairScore(key, base[0], base[1], aligned[0], aligned[1], int(lengths[0]), int(lengths[1]))
        for key, base, aligned, lengths in zip(batch.keys, *columns, strict=True)
    ]


def _by_pair(pairs: PairLogps) -> list[list[float]]:
    """`[chosen, rejected]` of each pair."""
    return torch.stack(pairs, dim=1).double().tolist()


def _wins(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.sign(margins) + 1) / 2


def _measure(
    name: str,
    label: str,
    base: NDArray[np.float64],
    aligned: NDArray[np.float64],
    description: str,
    *,
    percent: bool = True,
) -> Measure:
    return Measure(
        name=name,
        label=label,
        group=GROUP,
        description=description,
        direction=Direction.HIGHER,
        base=Ratio.mean(base),
        aligned=Ratio.mean(aligned),
        percent=percent,
    )


def _chunks(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
