"""The embedded world's own suite: held-out scenes, greedy answers, exact scores; neither data nor judge is needed.

    mmalign evaluate generate world --adapter runs/dpo/adapter --out runs/dpo/world
    mmalign evaluate score world --answers runs/dpo/world

The tasks and the rule are those of `mmalign evaluate --suite world` (`evaluation/world.py`). The headline is `quality`,
0 to 12: it is the one measure to which every task counts, and the one that silence, an easy way to make nothing up,
does not improve.

Tests   tests/evaluation/benchmarks/test_world_benchmark.py
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from mmalign.evaluation.steps.answered import answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, Picture, Turn
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored
from mmalign.evaluation.world import WorldSizes, held_out_ids, metrics
from mmalign.world.judge import WorldJudge
from mmalign.world.tasks import Task, task

ANSWER_TOKENS = 160
"""The longest gold answer of the world has about a hundred."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Tasks on held-out scenes of the embedded world, judged exactly."""

    name: ClassVar[str] = "world"
    title: ClassVar[str] = "Embedded world"

    describe: int = 300
    """Descriptions: hallucination and recall."""
    yes_no: int = 300
    """Is-there questions, a third each random, popular and adversarial, half of them about things that are there."""
    text: int = 200
    """Text-only instructions: sort, reverse, copy, add, follow a constraint."""
    other: int = 100
    """Counting, places, comparisons, second turns, two pictures; evenly."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where nothing is asked."""
        counts = vars(self.sizes)
        if min(counts.values()) < 0 or not any(counts.values()):
            raise ValueError(f"The embedded world has 0 or more tasks of each sort, and some, got {counts}.")

    @property
    def sizes(self) -> WorldSizes:
        """How many tasks of each sort."""
        return WorldSizes(describe=self.describe, yes_no=self.yes_no, text=self.text, other=self.other)

    @property
    def protocol(self) -> str:
        """See `Benchmark.protocol`."""
        return f"world/heldout-{self.describe}-{self.yes_no}-{self.text}-{self.other}"

    def asks(self) -> list[Ask]:
        """See `Benchmark.asks`."""
        return [_ask(task(task_id)) for task_id in held_out_ids(self.sizes)]

    def read_answers(self, rows: Any) -> list[Answer]:
        """Answers such as `{"id": "world/heldout/describe/000000", "text": "A red circle."}`."""
        return [Answer(row["id"], [row["text"]], row.get("model", "")) for row in rows]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark.score`; the rule is our own, so both ways of `compat` are one."""
        if answers is None or replies:
            raise ValueError(f"{self.title} is scored by a rule: give `--answers`, and no `--judgments`.")
        faults = Faults(self.title)
        ids = held_out_ids(self.sizes)
        said = {name: each.text for name, each in answered(faults, ids, answers).items()}
        failures = faults.settle(handling)
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=model_of(answers),
            compat=handling.compat,
            num_questions=len(ids),
            num_scored=len(said),
            failures=failures,
            metrics=tuple(metric for group in metrics(said).values() for metric in group),
            items=tuple(_items(ids, said)),
        )


def _ask(asked: Task) -> Ask:
    """A task as a question; its pictures stand in the first turn."""
    pictures = tuple(Picture(f"{asked.id}/{i}", data=_png(image)) for i, image in enumerate(asked.images))
    texts = [each.text for each in (*asked.history, asked.question)]
    turns = [Turn(text, pictures if i == 0 else ()) for i, text in enumerate(texts)]
    history = tuple((turn, each.gold) for turn, each in zip(turns, asked.history, strict=False))
    return Ask(asked.id, (turns[-1],), max_new_tokens=ANSWER_TOKENS, history=history)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _items(ids: Sequence[str], said: Mapping[str, str]) -> list[Item]:
    """Every task with its answer, and what the judge says."""
    judge, found = WorldJudge(), list[Item]()
    for task_id in ids:
        asked, answer = task(task_id), said.get(task_id)
        rating = None if answer is None else judge.rate(asked, answer)
        found.append(
            Item(
                task_id,
                asked.question.text,
                answer or "",
                None if rating is None else float(rating.quality),
                category=asked.kind,
                expected=asked.gold,
                note="" if rating is None else rating.rationale,
            )
        )
    return found
