"""Pictures that look alike: a perceptual hash of 64 bits each, and all pairs that differ in a few bits only.

    picture_hash(jpeg) -> 0xe3c1d8a91c2f5a07     picture_hash(the same, half as large, as PNG) -> 0xe3c1d8a91c2f5a0d
    near_pairs(hashes, max_distance=4) -> first (0, 0, 7), second (3, 9, 8), distance (2, 0, 4)

The hash is `imagehash.phash`, from the lowest frequencies of the brightness
(https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html): another size, kind or quality changes
few bits of it, other content about half. Drawings and charts of one style look more alike to it than photos do.

Tests   tests/data/test_likeness.py
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple, cast

import imagehash
import numpy as np
from jaxtyping import Int64, UInt64
from PIL import ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from mmalign.pictures import DECODER_ERRORS, read_header

BITS = 64
MAX_DISTANCE = 8
"""What differs in more bits does not look alike, and the search would take long."""
DRAFT_SIDE = 128
"""Pixels that a JPEG is decoded to, at least: four times what the hash looks at, which changes it in few pictures."""
FLAT = 8
"""Levels between the darkest and the brightest pixel: of a plain area, the hash would be that of noise."""
COMPARED_AT_ONCE = 1 << 20
"""Pairs of hashes that are in memory together."""
MANY_PAIRS = 1_000_000
"""From here on, only pairs are kept that join what no other pair has joined."""

Hashes = UInt64[np.ndarray, " pictures"]
Others = UInt64[np.ndarray, " others"]
Numbers = Int64[np.ndarray, " pairs"]


class Pairs(NamedTuple):
    """Pairs of pictures that look alike, by their numbers."""

    first: Numbers
    second: Numbers
    distance: Numbers
    """Bits in which they differ."""


def picture_hash(data: bytes) -> int | None:
    """The perceptual hash of a picture as a viewer shows it; None: one plain area, which says nothing.

    Args:
        data: Encoded. A JPEG is decoded to an eighth to a half of its size, which is fast.

    Raises:
        ValueError: It cannot be decoded.
    """
    try:
        image = read_header(data)
        image.draft("L", (DRAFT_SIDE, DRAFT_SIDE))
        ImageOps.exif_transpose(image, in_place=True)
        grey = image.convert("L")
    except DECODER_ERRORS as error:
        raise ValueError(f"the picture cannot be decoded ({error})") from error
    darkest, brightest = cast(tuple[float, float], grey.getextrema())  # of one band
    if brightest - darkest < FLAT:
        return None
    bits = np.packbits(imagehash.phash(grey).hash)
    return int.from_bytes(bits.tobytes(), "big")


def near_pairs(hashes: Hashes, max_distance: int) -> Pairs:
    """All pairs at most so many bits apart.

    Of several equal hashes the first stands for all: it is paired with each of them and with what is near. Of more than
    `MANY_PAIRS` pairs, those are kept that join pictures which are not joined by others, so that `joined` is exact.

    Args:
        hashes: Of the pictures.
        max_distance: At most `MAX_DISTANCE`.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    twins = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    found = [Pairs(first[inverse[twins]], twins, np.zeros(len(twins), dtype=np.int64))]
    different, waiting = list[Pairs](), 0
    for matches in _matches(values, values, max_distance):
        below = matches.first < matches.second  # each pair once, and nothing with itself
        different.append(Pairs(*(column[below] for column in matches)))
        waiting += int(below.sum())
        if waiting > MANY_PAIRS:
            different = [_fewer(_unique(different), len(values))]
            waiting = 0
    left, right, distance = _unique(different)
    ends = first[left], first[right]
    return _concatenated([*found, Pairs(np.minimum(*ends), np.maximum(*ends), distance)])


def nearest(hashes: Hashes, others: Others, max_distance: int) -> Pairs:
    """For each picture that looks like one of another set, the one that it is nearest to.

    Args:
        hashes: Of the pictures: `first` of the result.
        others: Of the other set: `second`.
        max_distance: At most `MAX_DISTANCE`.
    """
    best = np.full(len(hashes), BITS + 1, dtype=np.int64)
    where = np.zeros(len(hashes), dtype=np.int64)
    for left, right, distance in _matches(hashes, others, max_distance):
        order = np.lexsort((right, distance, left))
        _, start = np.unique(left[order], return_index=True)
        left, right, distance = (each[order][start] for each in (left, right, distance))
        closer = distance < best[left]
        best[left[closer]], where[left[closer]] = distance[closer], right[closer]
    first = np.flatnonzero(best <= BITS)
    return Pairs(first, where[first], best[first])


def joined(count: int, pairs: Pairs) -> Int64[np.ndarray, " pictures"]:
    """The group of every picture: those that pairs connect, perhaps over others, have the same number.

    Args:
        count: Of pictures.
        pairs: From `near_pairs`.
    """
    graph = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(count, count))
    groups: Int64[np.ndarray, " pictures"] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _fewer(pairs: Pairs, count: int) -> Pairs:
    """All pairs or, of many, those that join the same pictures with the fewest and shortest pairs."""
    if len(pairs.first) <= MANY_PAIRS:
        return pairs
    graph = coo_array((pairs.distance, (pairs.first, pairs.second)), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    return Pairs(*(column.astype(np.int64) for column in (tree.row, tree.col, tree.data)))


def _unique(pairs: Sequence[Pairs]) -> Pairs:
    """Each pair once, in order."""
    together = _concatenated(pairs)
    order = np.lexsort((together.second, together.first))
    first, second, distance = (column[order] for column in together)
    new = np.ones(len(first), dtype=bool)
    new[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    return Pairs(first[new], second[new], distance[new])


def _concatenated(pairs: Sequence[Pairs]) -> Pairs:
    nothing = np.zeros(0, dtype=np.int64)
    return (
        Pairs(*(np.concatenate([nothing, *columns]) for columns in zip(*pairs, strict=True)))
        if pairs
        else Pairs(nothing, nothing, nothing)
    )


def _matches(hashes: Hashes, others: Others, max_distance: int) -> Iterator[Pairs]:
    """Pairs across two sets, in pieces; one may come several times.

    Pigeonhole: cut into `max_distance + 2` bands, two hashes that differ in at most `max_distance` bits agree in two
    bands at least. So only those are compared that agree in some two bands, at distance 4 a third of the bits.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"a distance of {max_distance} bits, but it must lie in 0..{MAX_DISTANCE}; 4 is usual.")
    edges = [BITS * band // (max_distance + 2) for band in range(max_distance + 3)]
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for one, other in combinations(bands, 2):
        mask = np.uint64(one | other)
        rows, columns = np.argsort(hashes & mask), np.argsort(others & mask)
        keys, wanted = (others & mask)[columns], (hashes & mask)[rows]
        start, stop = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
        for i, at in _expanded(start, stop):
            first, second = rows[i], columns[at]
            distance = np.bitwise_count(hashes[first] ^ others[second]).astype(np.int64)
            near = distance <= max_distance
            yield Pairs(first[near], second[near], distance[near])


def _expanded(start: Numbers, stop: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """(i, j) for every j in `start[i]..stop[i]`, about `COMPARED_AT_ONCE` at a time."""
    ends = np.cumsum(stop - start)
    low = 0
    while low < len(ends):
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + COMPARED_AT_ONCE, "right")))
        counts = (stop - start)[low:high]
        i = np.repeat(np.arange(low, high), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield i, start[i] + within
        low = high
