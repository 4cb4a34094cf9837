r"""Prompts of the embedded world as samples: to be answered, judged and trained on as anybody's.

    next(world_prompts("preference", "preference", 1))
        -> Sample(key="preference-describe-000000", images=(b"\x89PNG...",), id="world/preference/describe/000000", ...)

Tests   tests/world/test_prompts.py
"""

import io
from collections.abc import Iterator

from PIL import Image

from mmalign.data.sample import Sample
from mmalign.messages import parse_messages
from mmalign.world.scene import Split
from mmalign.world.tasks import Task, task, tasks

SOURCE = "mmalign-world"
"""`source` of the world's samples."""


def world_prompts(split: Split, mix: str, num: int, skip: int = 0) -> Iterator[Sample]:
    """Some tasks of a split as samples without answers; ids lead back to the tasks.

    Args:
        split: Which scenes.
        mix: A kind, such as "describe", or a mix: "preference", "text".
        num: How many.
        skip: How many to leave out before them. The first 2000 of `heldout` are what the evaluation asks.

    Raises:
        ValueError: No such kind or mix, or no prompt asked for.
    """
    if num < 1 or skip < 0:
        raise ValueError(f"The world makes 1 prompt or more behind 0 or more, got num {num} and skip {skip}. Set both.")
    for task_id in tasks(split, mix, skip + num)[skip:]:
        yield prompt_of(task(task_id))


def prompt_of(asked: Task) -> Sample:
    """The sample of a task, without answers."""
    return Sample(
        key=asked.id.removeprefix("world/").replace("/", "-"),
        messages=parse_messages(asked.messages),
        images=tuple(_png(image) for image in asked.images),
        source=SOURCE,
        id=asked.id,
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
