"""Where two answers differ, word by word.

    differences("A red ball.", "A blue ball.")
    ->  [("A ", False), ("red ", True), ("ball.", False)],  [("A ", False), ("blue ", True), ("ball.", False)]

Tests   tests/tools/inspection/test_differences.py
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

WORD = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
"""A word or a mark with the white space behind it: spaces by themselves would match one another everywhere."""
MANY_WORDS = 1000
"""From here on difflib passes over the commonest words, or it would take minutes."""


class Stretch(NamedTuple):
    """A piece of one text."""

    text: str
    own: bool
    """Whether the other text lacks it."""


class Block(NamedTuple):
    """Words `first` of one text stand where words `second` of the other do."""

    first: list[str]
    second: list[str]
    equal: bool

    @property
    def size(self) -> int:
        """Characters of the longer side."""
        return max(len("".join(words)) for words in (self.first, self.second))


def differences(first: str, second: str) -> tuple[list[Stretch], list[Stretch]]:
    """Both texts in stretches that the other has, too, or lacks."""
    blocks = _readable(_blocks(WORD.findall(first), WORD.findall(second)))
    sides = (
        [Stretch("".join(words), not block.equal) for block, words in zip(blocks, side, strict=True) if words]
        for side in ([block.first for block in blocks], [block.second for block in blocks])
    )
    one, other = (_joined(side) for side in sides)
    return one, other


def _blocks(first: list[str], second: list[str]) -> list[Block]:
    one, other = ([word.strip() for word in words] for words in (first, second))
    matcher = SequenceMatcher(None, one, other, autojunk=len(first) + len(second) > MANY_WORDS)
    return [Block(first[a:b], second[c:d], tag == "equal") for tag, a, b, c, d in matcher.get_opcodes()]


def _readable(blocks: Sequence[Block]) -> list[Block]:
    """Without the odd word that two different sentences share by chance: it would leave confetti.

    An equal block that is no longer than the change before it and the one behind it counts as changed.
    """
    kept = list[Block]()
    for number, block in enumerate(blocks):
        inside = 0 < number < len(blocks) - 1
        around = (blocks[number - 1], blocks[number + 1]) if inside else ()
        chance = block.equal and inside and all(block.size <= each.size for each in around)
        kept.append(block._replace(equal=False) if chance else block)
    return kept


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Neighbours of one kind as one stretch."""
    return [
        Stretch("".join(each.text for each in group), own)
        for own, group in groupby(stretches, key=lambda each: each.own)
    ]
