"""What an import says of pictures that it saw twice: the same bytes, pictures that look alike, leaks into other sets.

    {"max_distance": 4, "pictures": 27, "different": 25, "plain": 1,
     "identical": [["0000001", "0000004"]],
     "near": [{"pictures": ["0000001", "0000007"], "distance": 2}], "across": [],
     "leaks": [{"shards": "shards/heldout", "identical": [{"here": "0000003", "there": "k7"}],
                "near": [{"here": "0000009", "there": "k2", "distance": 4}]}]}

A picture is called by the key of its sample, with `#1` where that has several and `train/` where the import has several
sets; in `near` and `leaks` by the first that has it, `identical` lists the others.

Tests   tests/tools/test_import_engine.py
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmalign.data.hashed import Looks, set_hashes
from mmalign.data.likeness import MAX_DISTANCE, Hashes, joined, near_pairs, nearest
from mmalign.data.reader import ShardSet

from .progress import progress_bars

EXAMPLES = 3
"""Of each kind on the terminal."""


@dataclass(frozen=True, kw_only=True)
class LikenessSettings:
    """Which pictures are compared by their looks, which decodes each of them once."""

    duplicates: bool = True
    """Find pictures that look alike within what is imported."""
    leaks_against: tuple[str, ...] = ()
    """Shard sets, say the held-out one: pictures that look like one of theirs are found."""
    max_distance: int = 4
    """Bits of 64 in which two perceptual hashes may differ."""

    def __post_init__(self) -> None:
        """Refuse a distance that nothing can be told by."""
        if not 0 <= self.max_distance <= MAX_DISTANCE:
            raise ValueError(
                f"`max_distance` is a number of bits from 0 to {MAX_DISTANCE}, got {self.max_distance}. 4 is usual: "
                "another size, kind or quality of a picture changes fewer."
            )


class Seen(NamedTuple):
    """A picture on its way: its short sha256 and its perceptual hash."""

    name: str
    look: int | None


class Report(NamedTuple):
    """What came of the comparison."""

    content: Mapping[str, Any]
    """For `likeness.json`."""
    counts: Mapping[str, int]
    """For the lineage."""
    lines: Sequence[str]
    """For the terminal."""


class OtherSet(NamedTuple):
    """A set that nothing should leak into."""

    shards: ShardSet
    looks: Looks


def open_others(settings: LikenessSettings) -> tuple[OtherSet, ...]:
    """The sets that are compared with, their pictures hashed.

    Raises:
        FileNotFoundError, ShardError, SampleError: One cannot be read.
    """
    others = []
    for place in settings.leaks_against:
        from mmalign.data.rowset import Source  # slow: it knows the model's processor

        shards = ShardSet(Source(path=place).resolve())
        with progress_bars() as progress:
            bar = progress.add_task(f"Looking at {place}", total=len(shards))
            others.append(OtherSet(shards, set_hashes(shards, partial(progress.advance, bar))))
    return tuple(others)


class Comparison:
    """Takes up every picture of an import, and compares them at the end; a few hundred bytes a picture."""

    def __init__(self, settings: LikenessSettings, others: Sequence[OtherSet]) -> None:
        """Remember what to compare.

        Args:
            settings: How.
            others: From `open_others`.
        """
        self.settings = settings
        self.others = others
        self._numbers: dict[str, int] = {}
        """Of the different pictures, by short sha256, as they came."""
        self._looks: list[int | None] = []
        self._uses: list[_Use] = []
        self._folders: set[Path] = set()

    def known(self, name: str) -> Seen | None:
        """A picture that came before."""
        number = self._numbers.get(name)
        return None if number is None else Seen(name, self._looks[number])

    def add(self, folder: Path, key: str, pictures: Sequence[Seen]) -> None:
        """Take up the pictures of one sample.

        Args:
            folder: The shard set that it was written to.
            key: Of the sample.
            pictures: In order.
        """
        self._folders.add(folder)
        for place, (name, look) in enumerate(pictures):
            number = self._numbers.setdefault(name, len(self._looks))
            if number == len(self._looks):
                self._looks.append(look)
            self._uses.append(_Use(number, folder, key, place if len(pictures) > 1 else None))

    def report(self) -> Report:
        """Compare what came."""
        uses = self._uses_of_each()
        calls = [[self._call(use) for use in each] for each in uses]
        content: dict[str, Any] = {"max_distance": self.settings.max_distance, "pictures": len(self._uses)}
        content |= {"different": len(uses), "plain": self._looks.count(None)}
        counts, lines = {"pictures": len(uses)}, list[str]()
        if self.settings.duplicates:
            content["identical"] = [each for each in calls if len(each) > 1]
            groups = self._groups()
            content["near"] = [
                {"pictures": [calls[number][0] for number in numbers], "distance": distance}
                for numbers, distance in groups
            ]
            alike = [numbers for numbers, _ in groups] + [[number] for number in range(len(uses))]
            content["across"] = list(self._across(alike, uses)) if len(self._folders) > 1 else []
            counts["lookalikes"] = sum(len(numbers) for numbers, _ in groups)
            lines += _duplicate_lines(content)
        if self.others:
            content["leaks"] = [self._leaks(other, calls) for other in self.others]
            counts["leaks"] = sum(len(leak[kind]) for leak in content["leaks"] for kind in ("identical", "near"))
            lines += [line for leak in content["leaks"] for line in _leak_lines(leak)]
        return Report(content, counts, lines)

    def _uses_of_each(self) -> list[list["_Use"]]:
        uses: list[list[_Use]] = [[] for _ in self._looks]
        for use in self._uses:
            uses[use.number].append(use)
        return uses

    def _call(self, use: "_Use") -> str:
        folder = f"{use.folder.name}/" if len(self._folders) > 1 else ""
        return f"{folder}{use.key}" + ("" if use.place is None else f"#{use.place}")

    def _comparable(self) -> tuple[list[int], Hashes]:
        """Numbers and hashes of the pictures that are not plain."""
        numbers = [number for number, look in enumerate(self._looks) if look is not None]
        return numbers, np.array([self._looks[number] for number in numbers], dtype=np.uint64)

    def _groups(self) -> list[tuple[list[int], int]]:
        """Pictures that look alike, and the least distance among them."""
        numbers, hashes = self._comparable()
        pairs = near_pairs(hashes, self.settings.max_distance)
        group_of = joined(len(numbers), pairs)
        groups, closest = dict[int, list[int]](), dict[int, int]()
        for at in np.unique(np.concatenate([pairs.first, pairs.second])).tolist():
            groups.setdefault(int(group_of[at]), []).append(numbers[at])
        for group, distance in zip(group_of[pairs.first].tolist(), pairs.distance.tolist(), strict=True):
            closest[group] = min(distance, closest.get(group, distance))
        return [(members, closest[group]) for group, members in groups.items()]

    def _across(self, alike: Sequence[Sequence[int]], uses: Sequence[Sequence["_Use"]]) -> Iterator[list[str]]:
        """Of each group that lies in several folders, a picture in each; of a group within another one, nothing."""
        said = set[int]()
        for numbers in alike:
            first = dict[Path, str]()
            for use in (use for number in numbers for use in uses[number]):
                first.setdefault(use.folder, self._call(use))
            if len(first) > 1 and not said.issuperset(numbers):
                said.update(numbers)
                yield list(first.values())

    def _leaks(self, other: OtherSet, calls: Sequence[Sequence[str]]) -> dict[str, Any]:
        names = list(self._numbers)
        same = [number for number, name in enumerate(names) if name in other.looks]
        numbers, hashes = self._comparable()
        theirs = [name for name, look in other.looks.items() if look is not None]
        their_hashes = np.array([other.looks[name] for name in theirs], dtype=np.uint64)
        found = zip(*(each.tolist() for each in nearest(hashes, their_hashes, self.settings.max_distance)), strict=True)
        near = [(numbers[i], theirs[j], d) for i, j, d in found if names[numbers[i]] not in other.looks]
        keys = _keys_of(other.shards, {names[number] for number in same} | {name for _, name, _ in near})
        return {
            "shards": other.shards.manifest.location,
            "identical": [{"here": calls[number][0], "there": keys[names[number]]} for number in same],
            "near": [{"here": calls[number][0], "there": keys[name], "distance": d} for number, name, d in near],
        }


class _Use(NamedTuple):
    """A picture that a sample has."""

    number: int
    """Of the picture among the different ones."""
    folder: Path
    key: str
    place: int | None
    """Among the sample's pictures, where it has several."""


def _keys_of(shards: ShardSet, names: Set[str]) -> dict[str, str]:
    """Key of the first sample that has each of these pictures."""
    keys = dict[str, str]()
    columns = (shards.manifest.table.column(name) for name in ("images", "key"))
    for images, key in zip(*columns, strict=True):
        for name in names & set(images.as_py()):
            keys.setdefault(name, key.as_py())
    return keys


def _duplicate_lines(content: Mapping[str, Any]) -> Iterator[str]:
    if content["identical"]:
        yield f"{len(content['identical'])} pictures are used more than once, with the same bytes."
    if near := content["near"]:
        number = sum(len(group["pictures"]) for group in near)
        yield f"{number} pictures look alike ({content['max_distance']} bits of 64 may differ), in {len(near)} groups:"
        for group in near[:EXAMPLES]:
            first, second, *more = group["pictures"]
            yield f"  {first} and {second}" + (f" and {len(more)} more" if more else "")
    if across := content["across"]:
        yield f"{len(across)} of all these lie in several of the sets written, so one leaks into the other:"
        yield from (f"  {' and '.join(group)}" for group in across[:EXAMPLES])
        yield "Look at them: drawings of one style look alike, too. Take real ones out of one of the sets."


def _leak_lines(leak: Mapping[str, Any]) -> Iterator[str]:
    same, near = leak["identical"], leak["near"]
    if not same and not near:
        yield f"No picture leaks into {leak['shards']}."
        return
    yield f"{len(same)} pictures also lie in {leak['shards']}, {len(near)} look like one there:"
    for each in same[:EXAMPLES]:
        yield f"  {each['here']} is {each['there']} there"
    for each in near[:EXAMPLES]:
        yield f"  {each['here']} looks like {each['there']} there, {each['distance']} bits differ"
