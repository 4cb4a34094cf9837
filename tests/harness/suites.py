"""A made-up suite folder, in the shape that `mmalign evaluate --suite` writes; every number and text in it is fake.

    write_suite(tmp_path / "suite", shifts={"mm_vet": 0.1, "pope": -0.05})
    write_suite(tmp_path / "suite", paper_size=True)         as many questions as the published benchmarks have

Scores are drawn from a question's difficulty and a model's strength, so that base and aligned agree as real models do.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.scored import Item, Metric, Scored

SEED = 7
JUDGE = "fake-judge-0"


class Fake(NamedTuple):
    """What one made-up benchmark is like."""

    name: str
    title: str
    label: str
    size: int
    """Questions of the published one."""
    base: float
    """The base's mean, as a share of the scale."""
    words: float
    judged: bool = True
    top: float = 1.0
    """Best score of an answer; a share where it is 1."""
    groups: Mapping[str, Sequence[str]] = {}
    lower: bool = False


CAPABILITIES = ("Recognition", "OCR", "Knowledge", "Generation", "Spatial awareness", "Math")
WRITING = ("Writing", "Roleplay", "Reasoning", "Math", "Coding", "Extraction", "STEM", "Humanities")
REASONING = (
    "Attribute reasoning",
    "Coarse perception",
    "Fine-grained perception (cross-instance)",
    "Logic",
    "Relation",
)
FAKES = (
    Fake(
        "mt_bench",
        "MT-Bench",
        "Rating, both turns",
        160,
        0.6,
        120,
        top=10.0,
        groups={"category": WRITING, "turn": ("First", "Second")},
    ),
    Fake("alpaca_eval", "AlpacaEval", "Win rate", 805, 0.79, 150),
    Fake("mm_vet", "MM-Vet", "Score", 218, 0.36, 30, groups={"capability": CAPABILITIES}),
    Fake(
        "llava_bench",
        "LLaVA-Bench",
        "Relative score",
        60,
        0.73,
        110,
        groups={"category": ("Conversation", "Detail", "Complex")},
    ),
    Fake(
        "pope",
        "POPE",
        "Mean F1 of the splits",
        500,
        0.86,
        1,
        judged=False,
        groups={"split": ("Random", "Popular", "Adversarial")},
    ),
    Fake("mmbench", "MMBench", "Circular accuracy", 1176, 0.67, 1, judged=False, groups={"category": REASONING}),
    Fake("mmhal", "MMHal-Bench", "Rating", 96, 0.4, 60, top=6.0),
    Fake("chair", "CHAIR", "Objects made up", 500, 0.12, 90, judged=False, lower=True),
    Fake(
        "text",
        "Text knowledge",
        "Mean accuracy",
        3000,
        0.5,
        2,
        judged=False,
        groups={"task": ("MMLU", "BBH", "IFEval", "TruthfulQA")},
    ),
)
"""In no order that the report should keep."""
GAIN = {"mt_bench": 0.09, "alpaca_eval": 0.06, "mm_vet": 0.1, "llava_bench": 0.06, "mmhal": 0.08, "chair": -0.04}
"""Shifts as a good run has them, in shares of the scale."""


def write_suite(
    folder: Path,
    *,
    shifts: Mapping[str, float] = GAIN,
    names: Sequence[str] = tuple(fake.name for fake in FAKES),
    failed: Mapping[str, str] | None = None,
    most: int = 60,
    paper_size: bool = False,
    longer: float = 1.3,
    chatty: Sequence[str] = (),
    pictures: Path | None = None,
) -> Path:
    """Write the folder; returns it.

    Args:
        folder: Of the suite.
        shifts: By how much the aligned model is stronger, by benchmark; others stay as they are.
        names: Benchmarks.
        failed: Benchmarks without a score, and why.
        most: Questions of a benchmark.
        paper_size: As many questions as published, instead.
        longer: Words of the aligned model's answers, for each of the base's.
        chatty: Benchmarks whose short format the aligned model no longer keeps.
        pictures: A folder to put pictures into; None: questions have none.
    """
    for fake in FAKES:
        if fake.name in names:
            size = fake.size if paper_size else min(most, fake.size)
            picture = _picture(pictures, fake.name) if pictures is not None and fake.name != "mt_bench" else None
            for side in ("base", "aligned"):
                scored = fake_scored(
                    fake,
                    model=f"fake-{side}",
                    size=size,
                    shift=shifts.get(fake.name, 0.0) if side == "aligned" else 0.0,
                    longer=longer if side == "aligned" else 1.0,
                    kept=0.4 if side == "aligned" and fake.name in chatty else 0.98,
                    picture=picture,
                )
                scored.write(folder / side / fake.name)
    record = {
        "suite": "paper",
        "base": {"checkpoint": "fake-llava"},
        "aligned": {"checkpoint": "fake-llava", "adapter": "runs/fake"},
        "benchmarks": sorted({*names, *(failed or {})}),
        "failed": dict(failed or {}),
        "lineage": {"shards": "fake-pairs sha256 00ff", "reference": "fake-llava"},
    }
    (folder / "suite.json").write_text(json.dumps(record))
    return folder


def fake_scored(
    fake: Fake,
    *,
    model: str,
    size: int,
    shift: float = 0.0,
    longer: float = 1.0,
    kept: float = 0.98,
    picture: Path | None = None,
) -> Scored:
    """One made-up score; the same arguments give the same one."""
    luck = np.random.default_rng([SEED, len(fake.name), size, *model.encode()])
    shared = np.random.default_rng([SEED, *fake.name.encode()])
    difficulty = shared.normal(0, 0.25, size)
    share = np.clip(fake.base + shift + difficulty + luck.normal(0, 0.12, size), 0, 1)
    scores = np.round(share * fake.top, 1)
    ids = tuple(f"fake-{number}" for number in range(size))
    words = np.maximum(1, luck.normal(fake.words * longer, 0.2 * fake.words, size)).round()
    headline = Metric(
        name="score",
        label=fake.label,
        description=f"Made up, for tests: {fake.label}.",
        direction=Direction.LOWER if fake.lower else Direction.HIGHER,
        percent=fake.top == 1,
        ids=ids,
        terms=Ratio.mean(scores),
        headline=True,
        official=round(float(100 * scores.mean() if fake.top == 1 else scores.mean()), 2),
    )
    parts = [
        _part(headline, group, label, number, len(labels))
        for group, labels in fake.groups.items()
        for number, label in enumerate(labels)
    ]
    form = luck.random(size) < kept
    shifts = [_plain("words", "Words an answer", ids, words, Direction.NEITHER, percent=False)]
    if fake.name in ("pope", "mmbench"):
        shifts.append(_plain("format_kept", "Answers in the asked short format", ids, form, Direction.HIGHER))
    if fake.name == "pope":
        headline = _mean_f1(headline, share)
        shifts.append(
            _plain("yes_ratio", "Answers that say yes", ids, luck.random(size) < 0.5 + shift, Direction.NEITHER)
        )
    items = _items(fake, model, ids, scores, words, picture)
    return Scored(
        benchmark=fake.name,
        title=fake.title,
        protocol=f"{fake.name}/fake-1",
        model=model,
        judge=JUDGE if fake.judged else "",
        num_questions=size,
        num_scored=size,
        metrics=(headline, *parts, *shifts),
        items=items,
        lineage={"questions": f"fake/{fake.name}.jsonl"},
    )


def without(scored: Scored, number: int, reason: str) -> Scored:
    """The same score, with the first questions in no mean."""
    dropped = set(scored.headline.ids[:number])
    metrics = []
    for metric in scored.metrics:
        rows = np.array([name not in dropped for name in metric.ids])
        terms = Ratio(metric.terms.numerators[rows], metric.terms.denominators[rows])
        metrics.append(replace(metric, ids=tuple(name for name in metric.ids if name not in dropped), terms=terms))
    items = tuple(item._replace(score=None) if item.id in dropped else item for item in scored.items)
    kept = scored.num_questions - number
    return replace(
        scored, metrics=tuple(metrics), items=items, num_scored=kept, failures={reason: tuple(sorted(dropped))}
    )


def _items(fake: Fake, model: str, ids: tuple[str, ...], scores, words, picture: Path | None) -> tuple[Item, ...]:
    labels = next(iter(fake.groups.values()), ("",))
    return tuple(
        Item(
            id=name,
            question=f"Fake question {number} of {fake.title}?",
            answer=f"{model} says {score:g}: " + " ".join(["fake"] * int(count)),
            score=float(score),
            category=labels[number % len(labels)],
            expected=f"Fake truth {number}.",
            note=f"Fake judgment: {score:g}." if fake.judged else "",
            pictures=(str(picture),) if picture is not None else (),
        )
        for number, (name, score, count) in enumerate(zip(ids, scores, words, strict=True))
    )


def _part(headline: Metric, group: str, label: str, number: int, count: int) -> Metric:
    rows = np.arange(len(headline.ids)) % count == number
    return replace(
        headline,
        name=f"{group}_{number}",
        label=label,
        group=group,
        headline=False,
        official=None,
        ids=tuple(name for name, taken in zip(headline.ids, rows, strict=True) if taken),
        terms=Ratio(headline.terms.numerators[rows], headline.terms.denominators[rows]),
    )


def _plain(
    name: str, label: str, ids: tuple[str, ...], values, direction: Direction, *, percent: bool = True
) -> Metric:
    return Metric(
        name=name,
        label=label,
        description=f"Made up, for tests: {label}.",
        direction=direction,
        percent=percent,
        ids=ids,
        terms=Ratio.mean(values),
    )


def _mean_f1(headline: Metric, share: np.ndarray) -> Metric:
    """As POPE's: three columns, the mean of their F1."""
    right = np.round(6 * share)
    columns = np.stack([np.clip(right - wrong, 0, 6) for wrong in (0, 0, 1)], axis=1)
    return replace(headline, name="mean_f1", terms=Ratio(2 * columns, columns + 6.0), official=0.5)


def _picture(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    across, down = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 420))
    hue = sum(name.encode()) % 256
    Image.fromarray(np.stack([across, down, np.full_like(across, hue)], -1).astype(np.uint8)).save(path)
    return path
