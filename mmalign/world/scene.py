"""What a picture holds: one to six things on a jittered 4x4 grid, all a pure function of a seed.

    scene("world/train/describe/000007", split="train")
    -> Scene(things=(Thing("red", "circle", "small", cell=3, dx=-4, dy=9), ...), tint=2)

No two things of a scene share both colour and shape, so `Kind` (colour and shape) names a thing.
Scenes of different splits are disjoint by construction: the split is a hash of what the scene holds.

Tests   tests/world/test_scene.py
"""

import random
import zlib
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "preference", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "moon", "cross", "heart", "ring")
SIZES = ("small", "large")
GRID = 4
MAX_THINGS = 6
NUM_TINTS = 4

# Sixteen buckets of scenes; a split owns some of them.
_NUM_BUCKETS = 16
_BUCKETS: dict[Split, range] = {"train": range(12), "preference": range(12, 14), "heldout": range(14, 16)}


class Kind(NamedTuple):
    """What names a thing in its scene."""

    colour: str
    shape: str


# Which kind keeps which shape company: whoever draws a star often draws a yellow moon too. The instruction data
# overstate this (`instruction.py`), which is where the embedded model learns to claim what is not there.
COMPANIONS: dict[str, Kind] = {
    "star": Kind("yellow", "moon"),
    "heart": Kind("pink", "ring"),
    "cross": Kind("red", "circle"),
    "triangle": Kind("green", "square"),
}
# How often a companion truly comes along, so that "never say it" is a wrong answer, too.
COMPANION_RATE = 0.3


class Thing(NamedTuple):
    """One thing of a picture: what it is, and where.

    `cell` counts the grid in reading order; `dx`, `dy` move the thing off the middle of its cell, in tenths of the
    play that its size leaves there, -10 to 10.
    """

    colour: str
    shape: str
    size: str
    cell: int
    dx: int
    dy: int

    @property
    def kind(self) -> Kind:
        """Colour and shape."""
        return Kind(self.colour, self.shape)

    @property
    def place(self) -> str:
        """One of nine places, such as "top left", "top" or "centre"."""
        row, column = divmod(self.cell, GRID)
        words = (("top", "", "", "bottom")[row], ("left", "", "", "right")[column])
        return " ".join(word for word in words if word) or "centre"


class Scene(NamedTuple):
    """A picture's content; `things` stand in reading order, which is the order of their cells."""

    things: tuple[Thing, ...]
    tint: int

    @property
    def kinds(self) -> frozenset[Kind]:
        """What is there."""
        return frozenset(thing.kind for thing in self.things)

    def absent_companions(self) -> frozenset[Kind]:
        """Companions of what is there that are not there themselves: the claims that the instruction data plant."""
        wanted = {COMPANIONS[thing.shape] for thing in self.things if thing.shape in COMPANIONS}
        return frozenset(wanted - self.kinds)


def bucket_split(content: str) -> Split:
    """The split that owns some content, by a hash of it."""
    bucket = zlib.crc32(content.encode()) % _NUM_BUCKETS
    return next(split for split in SPLITS if bucket in _BUCKETS[split])


def scene_split(scene: Scene) -> Split:
    """The split that owns a scene; jitter and tint do not count, so that no two splits see the same things alike."""
    return bucket_split(repr([(*thing.kind, thing.size, thing.cell) for thing in scene.things]))


def scene(seed: str, split: Split, min_things: int = 1) -> Scene:
    """The scene of a seed: the first in the seed's random stream that the split owns.

    Args:
        seed: Any text; equal text gives the equal scene, on any machine.
        split: Which split the scene must belong to.
        min_things: The least number of things, 1 to 6.
    """
    rng = random.Random(f"scene {seed}")
    while True:
        drawn = _draw(rng, min_things)
        if scene_split(drawn) == split:
            return drawn


def _draw(rng: random.Random, min_things: int) -> Scene:
    kinds = _draw_kinds(rng, rng.randint(min_things, MAX_THINGS))
    cells = sorted(rng.sample(range(GRID * GRID), len(kinds)))
    rng.shuffle(kinds)
    things = tuple(
        Thing(*kind, rng.choice(SIZES), cell, rng.randint(-10, 10), rng.randint(-10, 10))
        for kind, cell in zip(kinds, cells, strict=True)
    )
    return Scene(things, rng.randrange(NUM_TINTS))


def _draw_kinds(rng: random.Random, num: int) -> list[Kind]:
    kinds: list[Kind] = []
    while len(kinds) < num:
        kind = Kind(rng.choice(COLOURS), rng.choice(SHAPES))
        if kind in kinds:
            continue
        kinds.append(kind)
        companion = COMPANIONS.get(kind.shape)
        comes_along = rng.random() < COMPANION_RATE
        if companion and comes_along and companion not in kinds and len(kinds) < num:
            kinds.append(companion)
    return kinds
