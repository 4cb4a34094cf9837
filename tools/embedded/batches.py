r"""Lessons as tensors: the pictures once, and behind them every conversation, none of which sees another.

    lesson "visual" 7  ->  <s>USER: <image> x 16 \n | Describe the image. ASSISTANT: There is ...</s>
                                                     | Is there a red star? ASSISTANT: No</s>
                                                     | ...

All conversations of a lesson continue from the end of what their prompts share (`position_ids`), and see that and
themselves only (`mask`). So sixteen image tokens serve eleven conversations. A conversation by itself has exactly
these tokens and positions, which is how the model is used later.

Tests   tests/world/test_train_embedded.py
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import pixel_values
from mmalign.template import Template
from mmalign.world.instruction import Conversation, Course, Lesson, lesson
from mmalign.world.render import render
from mmalign.world.scene import COLOURS, GRID, MAX_THINGS, SHAPES, SIZES, Scene, scene

NOT_TRAINED = -100

# Classes of a patch's labels. Colour, shape and size are 0 where the patch is empty, and so is the thing's place in
# reading order; the cell and the number of all things hold for every patch.
PATCH_CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), 1 + len(SIZES), GRID * GRID, 1 + MAX_THINGS, 1 + MAX_THINGS)


# Things in a scene that the tower is pretrained on, at least: most patches are empty enough even so.
_CROWD = 4


class LessonBatch(NamedTuple):
    """Several lessons, padded on the right."""

    input_ids: Int[Tensor, "lessons tokens"]
    position_ids: Int[Tensor, "lessons tokens"]
    mask: Bool[Tensor, "lessons 1 tokens tokens"]
    """Who may look at whom; True allows."""
    targets: Int[Tensor, "lessons tokens"]
    """The token that each position must predict, `NOT_TRAINED` for none."""
    pixel_values: Float[Tensor, "images 3 height width"]


class PatchBatch(NamedTuple):
    """Pictures with labels for each patch, in the order of `PATCH_CLASSES`."""

    pixel_values: Float[Tensor, "images 3 height width"]
    labels: Int[Tensor, "images patches labels"]


class Row(NamedTuple):
    """One lesson, not yet padded; `segments` is 0 for what all conversations share."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    targets: list[int]


def lesson_batch(template: Template, course: Course, indices: Sequence[int]) -> LessonBatch:
    """The batch of some lessons of a course."""
    lessons = [lesson(course, index) for index in indices]
    rows = [encode_lesson(template, each) for each in lessons]
    pictures = [render(shown) for each in lessons for shown in each.scenes]
    width = max(len(row.ids) for row in rows)

    def padded(values: Sequence[list[int]], filler: int) -> Tensor:
        return torch.tensor([each + [filler] * (width - len(each)) for each in values])

    segments = padded([row.segments for row in rows], -1)
    return LessonBatch(
        input_ids=padded([row.ids for row in rows], template.tokenizer.pad_token_id),
        position_ids=padded([row.positions for row in rows], 0),
        mask=_mask(segments),
        targets=padded([row.targets for row in rows], NOT_TRAINED),
        pixel_values=pixel_values(template.processor, pictures),
    )


def encode_lesson(template: Template, each: Lesson) -> Row:
    """Tokens of a lesson, with its shared beginning once."""
    encoded = [_encode_conversation(template, len(each.scenes), turns) for turns in each.conversations]
    columns = enumerate(zip(*[ids for ids, _ in encoded], strict=False))
    shared = next((place for place, tokens in columns if len(set(tokens)) > 1), len(encoded[0][0]))
    # The last prompt token predicts the first answer token, so it belongs to its conversation.
    shared = min(shared, *(next(i for i, t in enumerate(targets) if t != NOT_TRAINED) for _, targets in encoded))
    row = Row(encoded[0][0][:shared], list(range(shared)), [0] * shared, [NOT_TRAINED] * shared)
    for segment, (ids, targets) in enumerate(encoded, start=1):
        row.ids.extend(ids[shared:])
        row.positions.extend(range(shared, len(ids)))
        row.segments.extend([segment] * (len(ids) - shared))
        row.targets.extend(targets[shared:])
    return row


def patch_batch(template: Template, indices: Sequence[int]) -> PatchBatch:
    """Pictures and patch labels of some scenes."""
    scenes = [scene(f"patches/{index}", "train", min_things=_CROWD) for index in indices]
    labels = torch.from_numpy(np.stack([_patch_labels(each) for each in scenes]))
    return PatchBatch(pixel_values(template.processor, [render(each) for each in scenes]), labels)


def _encode_conversation(template: Template, num_images: int, turns: Conversation) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and what each of them must predict: every answer is trained."""
    slots: tuple[ImageSlot, ...] = (ImageSlot(),) * num_images
    messages: list[Message] = []
    ids: list[int] = []
    targets: list[int] = []
    for turn in turns:
        messages.append(Message("user", (*slots, Text(turn.text))))
        prompt, answer = template.encode_prompt(messages), template.encode_response(turn.gold)
        targets += [NOT_TRAINED] * (len(prompt) - len(ids) - 1) + answer + [NOT_TRAINED]
        ids = prompt + answer
        messages.append(Message("assistant", (Text(turn.gold),)))
        slots = ()
    return ids, targets


def _mask(segments: Int[Tensor, "lessons tokens"]) -> Bool[Tensor, "lessons 1 tokens tokens"]:
    """Each token sees what came before it in the shared beginning and in its own conversation; padding sees padding."""
    looking, seen = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    return (causal & ((seen == looking) | ((seen == 0) & (looking > 0))))[:, None]


def _patch_labels(shown: Scene) -> np.ndarray:
    labels = np.zeros((GRID * GRID, len(PATCH_CLASSES)), dtype=np.int64)
    labels[:, 3] = range(GRID * GRID)
    labels[:, 5] = len(shown.things)
    for order, thing in enumerate(shown.things, start=1):
        what = (1 + COLOURS.index(thing.colour), 1 + SHAPES.index(thing.shape), 1 + SIZES.index(thing.size))
        labels[thing.cell, :3], labels[thing.cell, 4] = what, order
    return labels
