"""Rows as the model gets them: taken from the collated batch, so they are what a method trains on.

    RowReader(shard_set, Pairs(), template, ...).groups(7, sample)
    ->  [[ShownRow(key="000000.tar/scene7", variant="", warning="",
                   prompt=[Stretch("<s>USER: ", 0), Stretch("", 1), ...],
                   answers=[ShownAnswer(Role.CHOSEN, 61, False, "A small green heart ...</s>"), ...])]]

Tests   tests/tools/inspection/test_rows.py, tests/tools/inspection/test_command.py
"""

from itertools import chain, groupby
from typing import NamedTuple

from rich.text import Text

from mmalign.batch import Batch, Role
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Answer, Group, RowEncoder
from mmalign.data.rowset import mismatched_answers
from mmalign.data.sample import Sample
from mmalign.data.variants import Variant
from mmalign.data.views import View
from mmalign.template import Template

from .seen import seen

PROMPT_STYLE = "bright_black"
IMAGE_STYLE = "magenta"
NOTE_STYLE = "yellow"
ANSWER_STYLES = {
    Role.ANSWER: "cyan",
    Role.CHOSEN: "green",
    Role.REJECTED: "red",
    Role.OTHER_IMAGE: "magenta",
    Role.MISMATCHED: "dim",
}
NEIGHBOURS = 64
"""Samples behind one that are searched for another prompt's answer, before all are."""


class Stretch(NamedTuple):
    """A piece of a prompt."""

    text: str
    num_images: int
    """Pictures whose tokens stand here; 0 for text."""


class ShownAnswer(NamedTuple):
    """Tokens behind the prompt, as text."""

    role: Role
    num_tokens: int
    truncated: bool
    text: str

    @property
    def label(self) -> str:
        """`chosen, 61 trained tokens`."""
        verb = "scored" if self.role == Role.MISMATCHED else "trained"
        cut = " (truncated)" if self.truncated else ""
        return f"{self.role.name.lower()}, {self.num_tokens} {verb} tokens{cut}"


class ShownRow(NamedTuple):
    """One row, as text."""

    key: str
    variant: str
    """What was done to its pictures; empty where nothing was."""
    warning: str
    """Why it counts nothing; empty where it counts."""
    prompt: list[Stretch]
    answers: list[ShownAnswer]


class RowReader:
    """Makes the rows of samples, one sample at a time, as training would."""

    def __init__(self, shard_set: ShardSet, view: View, template: Template, encode: RowEncoder) -> None:
        """Remember how.

        Args:
            shard_set: Where the samples lie.
            view: What makes rows of them.
            template: Decodes their tokens.
            encode: What makes tokens of rows.
        """
        self.shard_set = shard_set
        self.view = view
        self.template = template
        self.encode = encode
        self._collate = Collator(pad_token_id=template.tokenizer.pad_token_id)

    def groups(self, number: int, sample: Sample) -> list[list[ShownRow]]:
        """The rows of a sample, each with its further ones; none where the view finds it unusable.

        Args:
            number: Of the sample in its shard set.
            sample: The sample.

        Raises:
            SampleError: A row cannot be made of it, see `RowEncoder`.
        """
        shard = self.shard_set.manifest.shard_of(number).name
        groups = [self._with_mismatched(number, group) for group in self.view.groups(sample, shard=shard)]
        return [
            [
                shown_row(self._collate([encoded]), self.template, row.variant)
                for row, encoded in zip(group, self.encode.group(group), strict=True)
            ]
            for group in groups
        ]

    def _with_mismatched(self, number: int, group: Group) -> Group:
        """With another prompt's answer, the one that training takes, where the view wants one."""
        if Role.MISMATCHED not in self.view.roles:
            return group
        manifest = self.shard_set.manifest
        order = list(chain(range(number, len(manifest)), range(number)))
        for few in (NEIGHBOURS, len(manifest)):
            near = tuple(manifest.entry(other) for other in order[:few])
            if found := mismatched_answers(near)[0]:
                answer = Answer(self.shard_set[order[found[0]]].responses[found[1]].text, Role.MISMATCHED)
                return tuple(row._replace(answers=(*row.answers, answer)) for row in group)
        return group


def shown_row(batch: Batch, template: Template, variant: Variant | None = None) -> ShownRow:
    """A batch of one row, as text.

    Args:
        batch: Of one row.
        template: Decodes its tokens.
        variant: What was done to its pictures.
    """
    warning = ""
    if batch.refusals[0]:
        warning = f"a stand-in takes its place: {batch.refusals[0]}"
    elif not batch.row_weights[0]:
        warning = "counts nothing, there is no picture to change"
    prompt = batch.input_ids[0][batch.segment_ids[0] == 0].tolist()
    stretches = [
        Stretch("" if is_image else template.tokenizer.decode(ids), is_image * len(ids) // template.num_image_tokens)
        for is_image, ids in _runs(prompt, template.image_token_id)
    ]
    targets = [batch.targets[batch.response_index == number].tolist() for number in range(len(batch.roles))]
    answers = [
        ShownAnswer(Role(role), len(ids), bool(cut), template.tokenizer.decode(ids))
        for role, cut, ids in zip(batch.roles.tolist(), batch.truncated.tolist(), targets, strict=True)
    ]
    changed = "" if variant is None else f"pictures changed by {variant!r}"
    return ShownRow(batch.keys[0], changed, warning, stretches, answers)


def row_text(row: ShownRow, num_image_tokens: int) -> Text:
    """A row for the terminal, coloured."""
    text = Text(f"{seen(row.key)}\n", style="bold")
    if row.variant:
        text.append(f"{row.variant}\n", style=IMAGE_STYLE)
    if row.warning:
        text.append(f"{seen(row.warning)}\n", style=NOTE_STYLE)
    for stretch in row.prompt:
        text.append(f"[image x{num_image_tokens}]" * stretch.num_images, style=IMAGE_STYLE)
        text.append(seen(stretch.text), style=PROMPT_STYLE)
    for answer in row.answers:
        text.append(f"\n  {answer.label}:", style="default")
        text.append(seen(answer.text), style=ANSWER_STYLES[answer.role])
    return text


def _runs(ids: list[int], image_token_id: int) -> list[tuple[bool, list[int]]]:
    """Stretches of image tokens and of others: `[5, I, I, 7]` -> `[(False, [5]), (True, [I, I]), (False, [7])]`."""
    return [(key, list(group)) for key, group in groupby(ids, key=lambda token: token == image_token_id)]
