"""Tasks: a prompt with its pictures and its gold answer, known from its id alone.

    task("world/heldout/is_there/000042").gold        -> "Yes, there is a red circle."
    tasks("preference", "preference", 600)            -> ids, in the mix of the preference set

An id is `world/{split}/{kind}/{index}`. Its scenes belong to the split (`scene.py`), and so does the wording of a
text-only task; so what is judged on `heldout` was never trained on.

Tests   tests/world/test_tasks.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from types import MappingProxyType
from typing import Any, Literal, get_args

from PIL import Image

from mmalign.world import questions
from mmalign.world.questions import Form, Negative, Question
from mmalign.world.render import render
from mmalign.world.scene import SPLITS, Scene, Split, bucket_split, scene
from mmalign.world.text_tasks import TEXT_KINDS, TextKind, text_question

VisualKind = Literal["describe", "is_there", "how_many", "where", "compare", "multi_turn", "two_images"]
TaskKind = Literal[VisualKind, "no_picture", TextKind]
VISUAL_KINDS: tuple[VisualKind, ...] = get_args(VisualKind)
KINDS: tuple[TaskKind, ...] = (*VISUAL_KINDS, "no_picture", *TEXT_KINDS)
NEGATIVES: tuple[Negative, ...] = get_args(Negative)

# Tasks of each kind among a hundred.
MIXES: Mapping[str, Mapping[TaskKind, int]] = MappingProxyType(
    {
        "preference": {
            "describe": 65, "is_there": 8, "how_many": 5, "where": 4, "compare": 3, "multi_turn": 3, "two_images": 3,
            "no_picture": 1, "sort": 2, "reverse": 2, "copy": 1, "add": 1, "constraint": 2,
        },
        "text": dict.fromkeys(TEXT_KINDS, 20),
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prompt; `messages` end with a user turn."""

    id: str
    split: Split
    kind: TaskKind
    scenes: tuple[Scene, ...]
    """What the pictures show, in order; empty for text-only tasks."""
    history: tuple[Question, ...]
    """Earlier turns, with the answers that the assistant gave."""
    question: Question
    """The turn to be answered."""
    category: str = ""
    """For `is_there`: random, popular or adversarial, as in POPE."""

    @property
    def gold(self) -> str:
        """A fully right answer."""
        return self.question.gold

    @property
    def form(self) -> Form:
        """How an answer is read."""
        return self.question.form

    @property
    def value(self) -> str:
        """What must be read from a right answer; "" for descriptions."""
        return self.question.value

    @cached_property
    def images(self) -> list[Image.Image]:
        """The pictures, drawn when first asked for."""
        return [render(each) for each in self.scenes]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a sample record holds it; pictures come first in the first turn."""
        slots: list[dict[str, Any]] = [{"type": "image"} for _ in self.scenes]
        turns: list[dict[str, Any]] = []
        for earlier in self.history:
            turns.append({"role": "user", "content": [*slots, {"type": "text", "text": earlier.text}]})
            turns.append({"role": "assistant", "content": [{"type": "text", "text": earlier.gold}]})
            slots = []
        turns.append({"role": "user", "content": [*slots, {"type": "text", "text": self.question.text}]})
        return turns


def task(task_id: str) -> Task:
    """The task of an id.

    Raises:
        ValueError: The id names no task of this world.
    """
    parts = task_id.split("/")
    known = len(parts) == 4 and parts[0] == "world" and parts[1] in SPLITS and parts[2] in KINDS and parts[3].isdigit()
    if not known:
        raise ValueError(
            f"{task_id!r} is no task of the embedded world. Ids look like world/heldout/describe/000042, "
            f"with a split of {list(SPLITS)} and a kind of {list(KINDS)}."
        )
    split = next(name for name in SPLITS if name == parts[1])
    kind = next(name for name in KINDS if name == parts[2])
    return _make(task_id, split, kind, int(parts[3]))


def tasks(split: Split, kind: str, num: int) -> list[str]:
    """Ids of the first tasks of a kind, or of a mix (`MIXES`), whose kinds alternate evenly.

    Args:
        split: Which scenes.
        kind: A kind, such as "describe", or a mix: "preference", "text".
        num: How many.
    """
    if kind in KINDS:
        return [f"world/{split}/{kind}/{index:06d}" for index in range(num)]
    if kind not in MIXES:
        raise ValueError(f"{kind!r} is neither a kind {list(KINDS)} nor a mix {list(MIXES)} of the embedded world.")
    return [f"world/{split}/{each}/{index:06d}" for each, index in _mixed(MIXES[kind], num)]


def _mixed(shares: Mapping[TaskKind, int], num: int) -> list[tuple[TaskKind, int]]:
    """Kinds in turn, always the one that lags furthest behind its share."""
    given = dict.fromkeys(shares, 0)
    order: list[tuple[TaskKind, int]] = []
    for _ in range(num):
        kind = min(shares, key=lambda each: (given[each] + 1) / shares[each])
        order.append((kind, given[kind]))
        given[kind] += 1
    return order


def _make(task_id: str, split: Split, kind: TaskKind, index: int) -> Task:
    rng = Random(f"task {task_id}")
    scenes: tuple[Scene, ...] = ()
    history: tuple[Question, ...] = ()
    category = ""
    if kind == "no_picture":
        question = questions.no_picture(rng)
    elif kind in TEXT_KINDS:
        question = _own_wording(rng, split, kind)
    else:
        num_scenes = 2 if kind == "two_images" else 1
        scenes = tuple(scene(f"{task_id}/{i}", split) for i in range(num_scenes))
        if kind == "is_there":
            category = NEGATIVES[index % 3]
        history, question = _ask(rng, kind, scenes, category, present=index // 3 % 2 == 0)
    return Task(
        id=task_id, split=split, kind=kind, scenes=scenes, history=history, question=question, category=category
    )


def _ask(
    rng: Random, kind: TaskKind, scenes: tuple[Scene, ...], category: str, *, present: bool
) -> tuple[tuple[Question, ...], Question]:
    """Earlier turns and the question of a visual task."""
    first = scenes[0]
    match kind:
        case "is_there":
            negative = next(each for each in NEGATIVES if each == category)
            return (), questions.is_there(rng, first, present=present, negative=negative)
        case "multi_turn":
            earlier, last = questions.follow_up(rng, first)
            return (earlier,), last
        case "two_images":
            return (), questions.two_pictures(rng, *scenes)
        case _:
            makers = {
                "describe": questions.describe,
                "how_many": questions.how_many,
                "where": questions.where,
                "compare": questions.compare,
            }
            return (), makers[kind](rng, first)


def _own_wording(rng: Random, split: Split, kind: TextKind) -> Question:
    """The first text-only instruction of the random stream that the split owns."""
    while True:
        question = text_question(rng, kind)
        if bucket_split(question.text) == split:
            return question
