"""Row sets: some shard sets under one view, as one numbered list of rows.

RowSet([Source(path="world"), Source(path="shards/nlvr", weight=0.5)], Pairs())[17] -> Group of rows, nearly always one
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.order import Rows, SourceRows, share_of
from mmalign.data.reader import ShardSet
from mmalign.data.remote import Remote
from mmalign.data.rows import Answer, Group, Row
from mmalign.data.sample import Place, SampleError
from mmalign.data.store import ReferenceStore
from mmalign.data.variants import Variant
from mmalign.data.views import Unusable, View

SHIPPED = ("world", "world-heldout")
"""Shard sets that come with mmalign, found by name."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A shard set and its share of an epoch."""

    path: str
    """A folder, an address (`https://...`, `gs://...`), or `world` / `world-heldout`, which ship with mmalign."""
    weight: float = 1.0
    """Rows per epoch relative to those there are: 1 each once, 0.5 half of them (others in the next epoch), 2 twice."""

    def __post_init__(self) -> None:
        """Raise where the source could give nothing."""
        if self.weight <= 0:
            raise ValueError(f"Source {self.path}: weight must be above 0, got {self.weight}. Leave the source out.")

    def resolve(self) -> str:
        """The folder or address behind the name."""
        return str(Path(str(files("mmalign.shards"))) / self.path) if self.path in SHIPPED else self.path


CHARACTERS_PER_TOKEN = 4
"""Roughly, of English in Llama's tokenizer."""

Stores = Mapping[str, Sequence[ReferenceStore]]
"""What the references say of one shard set: a store each, by the `repr` of the picture variant; "" is the picture."""


class Usable(NamedTuple):
    """Which samples of one shard set make rows."""

    rows: NDArray[np.int32]
    """(sample, number of the row within it) of each row, in manifest order."""
    characters: NDArray[np.int32]
    """Of each row: those of its prompt and answers."""
    pictures: NDArray[np.int32]
    """Of each row."""
    samples: int
    """Samples that make at least one row."""
    reasons: Counter[str]
    """Why the others make none."""

    def only(self, kept: Rows) -> "Usable":
        """Some of the rows, by number."""
        rows, characters, pictures = (each[kept] for each in (self.rows, self.characters, self.pictures))
        return self._replace(rows=rows, characters=characters, pictures=pictures)


class Where(NamedTuple):
    """Where the sample of a row lies."""

    source: int
    path: str
    """Of its source, as the config names it."""
    place: Place


class RowSet:
    """Rows of one or several sources, by number."""

    def __init__(
        self,
        sources: Sequence[Source],
        view: View,
        *,
        config_key: str = "data.shards",
        share: float = 1.0,
        seed: int = 0,
        remote: Remote | None = None,
    ) -> None:
        """Load the manifests and decide, from them alone, which rows there are.

        Args:
            sources: Rows are numbered through all of them.
            view: What makes rows of a sample.
            config_key: Where the sources stand in the config, for messages.
            share: Of the rows of each source that are there, in (0, 1]; see `share_of`.
            seed: Of the choice of the share.
            remote: How remote shards are read; the defaults if None.

        Raises:
            FileNotFoundError: A source is not there.
            ValueError: A source has no usable sample, or none with another's answer where the view wants one.
        """
        self.sources = tuple(sources)
        self.view = view
        self.sets = tuple(_open(source, config_key, remote) for source in sources)
        self.usable = tuple(usable(shard_set, view) for shard_set in self.sets)
        for source, found in zip(sources, self.usable, strict=True):
            if not len(found.rows):
                raise ValueError(
                    f"{source.path}: {summarize(found)}. {type(view).__name__} makes no row of it. Choose other "
                    f"samples in `{config_key}`, or another rule in `data.view`."
                )
        self.share, self.share_seed = share, seed
        if share < 1:
            self.usable = tuple(
                found.only(share_of(len(found.rows), share, seed=seed, source=number))
                for number, found in enumerate(self.usable)
            )
        self.mismatched = tuple(self._mismatched(shard_set) for shard_set in self.sets)
        """Of each source: for each sample (sample, response), another prompt's answer; None where no row has one."""
        self.stores: tuple[Stores, ...] = tuple({} for _ in self.sets)
        """Of each source; see `attach`."""

    def attach(self, stores: Sequence[Stores]) -> None:
        """Let every row come with what its references say of its answers.

        Args:
            stores: Of each source.
        """
        self.stores = tuple(stores)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Group:
        """Read one row, and those that belong to it.

        Raises:
            ShardError, SampleError, GoneError: See `ShardSet` and, where stores are attached, `ReferenceStore`.
        """
        source, sample, row = self._place(number)
        shard_set = self.sets[source]
        shard = shard_set.manifest.shard_of(sample).name
        found = shard_set[sample]
        groups = self.view.groups(found, shard=shard)
        if row >= len(groups):
            reason = getattr(self.view.choose(Entry.of(found)), "reason", "it makes fewer")
            raise SampleError(
                f"{shard}/{found.key}: no row {row} can be made of it ({reason}), though its manifest says so: it was "
                f"made of another sample. Run `mmalign import index {shard_set.manifest.folder}`."
            )
        group = groups[row]
        others = self.mismatched[source]
        if others is not None:
            other, response = others[sample]
            answer = Answer(shard_set[other].responses[response].text, Role.MISMATCHED)
            group = tuple(each._replace(answers=(*each.answers, answer)) for each in group)
        return tuple(_with_references(each, self.stores[source], sample) for each in group)

    def where(self, number: int) -> "Where":
        """Where the sample of a row lies."""
        source, sample, _ = self._place(number)
        manifest = self.sets[source].manifest
        place = Place(manifest.shard_of(sample).name, manifest.key(sample))
        return Where(source, self.sources[source].path, place)

    def holes(self, number: int) -> Group:
        """What stands in for a row that cannot be read: its roles and references, and nothing else."""
        where = self.where(number)
        key, source = "/".join(where.place), where.source
        references = tuple(np.zeros(1, np.float32) for _ in self.stores[source].get("", ()))
        roles: list[list[Role]] = [[role for role in self.view.roles if role != Role.OTHER_IMAGE]]
        if Role.OTHER_IMAGE in self.view.roles:
            roles.append([Role.OTHER_IMAGE])  # in a row of its own
        return tuple(Row(key, (), answers=tuple(Answer("", role, references) for role in row)) for row in roles)

    @property
    def variants(self) -> tuple[Variant | None, ...]:
        """What is done to the pictures of its rows, as far as the view's settings say; None: nothing."""
        return None, *(value for value in vars(self.view).values() if isinstance(value, Variant))

    @cached_property
    def order_sources(self) -> tuple[SourceRows, ...]:
        """The rows as `epoch_order` wants them."""
        return tuple(
            SourceRows(_shards(shard_set, found), source.weight)
            for source, shard_set, found in zip(self.sources, self.sets, self.usable, strict=True)
        )

    @cached_property
    def manifest_hash(self) -> str:
        """Hash of the manifest; of several sources, their hashes side by side; and the share taken of them."""
        share = f" (share {self.share:g}, seed {self.share_seed})" if self.share < 1 else ""
        return "+".join(shard_set.manifest.hash[:16] for shard_set in self.sets) + share

    def estimated_lengths(self, image_tokens: int) -> Rows:
        """Tokens of each row, roughly, from the manifests alone.

        Args:
            image_tokens: Of one picture.
        """
        pictures, characters = (
            np.concatenate([np.asarray(getattr(found, name), dtype=np.int64) for found in self.usable])
            for name in ("pictures", "characters")
        )
        lengths: Rows = pictures * image_tokens + characters // CHARACTERS_PER_TOKEN
        return lengths

    def summary(self) -> str:
        """A line for each source: `shards/nlvr: 312 of 400 samples usable, 312 rows; 88: fewer than two responses`."""
        return "\n".join(
            f"{source.path}: {summarize(found)}" for source, found in zip(self.sources, self.usable, strict=True)
        )

    def _mismatched(self, shard_set: ShardSet) -> list[tuple[int, int]] | None:
        if Role.MISMATCHED not in self.view.roles:
            return None
        found = mismatched_answers(tuple(shard_set.manifest.entries()))
        if lacking := [number for number, other in enumerate(found) if other is None]:
            raise ValueError(
                f"{shard_set.manifest.location}, sample {shard_set.manifest.entry(lacking[0]).key!r}: no other sample "
                f"has another answer, which {type(self.view).__name__} puts behind every prompt. Add samples."
            )
        return [other for other in found if other is not None]

    def _place(self, number: int) -> tuple[int, int, int]:
        """(source, sample, row of the sample) of a row."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        source = int(np.searchsorted(self._ends, number, side="right"))
        found = self.usable[source].rows
        sample, row = found[number - int(self._ends[source]) + len(found)]
        return source, int(sample), int(row)

    @cached_property
    def _ends(self) -> Rows:
        """The number behind each source's last row."""
        return np.cumsum([len(found.rows) for found in self.usable])


def usable(shard_set: ShardSet, view: View) -> Usable:
    """Which rows a view makes of a shard set, from its manifest alone."""
    samples, reasons = 0, Counter[str]()
    flat = array("i")  # four numbers a row: lists of a million would take a hundred bytes each
    for number, entry in enumerate(shard_set.manifest.entries()):
        choices = view.choose(entry)
        if isinstance(choices, Unusable):
            reasons[choices.reason] += 1
            continue
        samples += 1
        for row, chosen in enumerate(choices):
            characters = entry.prompt_length + sum(entry.lengths[choice.response] for choice in chosen)
            flat.extend((number, row, characters, len(entry.images)))
    table = np.array(flat, dtype=np.int32).reshape(-1, 4)
    return Usable(table[:, :2], table[:, 2], table[:, 3], samples, reasons)


def mismatched_answers(entries: Sequence[Entry]) -> list[tuple[int, int] | None]:
    """Another prompt's answer for each sample: (sample, response), None where there is none.

    It is the first response of the samples behind it, the first one following the last, that is neither empty nor one
    of its own. So it depends on the shard set alone, and a reference store can hold it.
    """
    return [_another(entries, number) for number in range(len(entries))]


def summarize(found: Usable) -> str:
    """`312 of 400 samples usable, 312 rows; 80: no response at least 2 below the best; 8: fewer than two responses`."""
    total = found.samples + found.reasons.total()
    reasons = [f"{count}: {reason}" for reason, count in found.reasons.most_common()]
    return "; ".join([f"{found.samples} of {total} samples usable, {len(found.rows)} rows", *reasons])


def _another(entries: Sequence[Entry], number: int) -> tuple[int, int] | None:
    for other in chain(range(number + 1, len(entries)), range(number)):
        for response, answer in enumerate(entries[other].answers):
            if entries[other].lengths[response] and answer not in entries[number].answers:
                return other, response
    return None


def _with_references(row: Row, stores: Stores, sample: int) -> Row:
    """The row, each answer with what every reference says of it."""
    if not stores:
        return row
    texts = [answer.text for answer in row.answers]
    of_picture = stores["" if row.variant is None else repr(row.variant)]
    found = [store.logps(sample, row.messages, row.images, texts, where=row.key) for store in of_picture]
    answers = zip(row.answers, zip(*found, strict=True), strict=True)
    return row._replace(answers=tuple(answer._replace(reference_logps=logps) for answer, logps in answers))


def _shards(shard_set: ShardSet, found: Usable) -> Rows:
    of_sample = np.asarray(shard_set.manifest.table.column("shard"), dtype=np.int64)
    return of_sample[found.rows[:, 0]]


def _open(source: Source, config_key: str, remote: Remote | None) -> ShardSet:
    try:
        return ShardSet(source.resolve(), remote)
    except FileNotFoundError as error:
        instead = " Or train on `world`, with `--config scale/tiny.yaml`." if config_key.startswith("data.") else ""
        raise FileNotFoundError(f"`{config_key}`: {error}{instead}") from error
