"""Shards against their manifest, and rows as the model would get them."""

from collections.abc import Iterator

import numpy as np

from mmalign.batch import Role
from mmalign.data.datamodule import ShardData
from mmalign.data.reader import ShardSet
from mmalign.data.remote import file_sha256
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet
from mmalign.data.sample import SampleError, ShardError

from .findings import Finding, failed, ok, warning

SHOWN = 3
"""Faults that a line names; it counts all."""
LONGEST = 32
"""Rows whose tokens are counted: the longest by the characters in the manifest."""
NOT_FETCHED = "They are hashed when they are fetched, and every sample when it is read."
NO_LIMIT = 10**9
"""Tokens; a check of its own looks at lengths."""


def check_shards(data: ShardData, *, full: bool) -> Finding:
    """Every shard is there with the bytes that its manifest says.

    Args:
        data: Names the shards.
        full: Hash every shard, too.
    """
    sets = [ShardSet(source.resolve(), data.remote) for source in (*data.train_sources, *data.val_sources)]
    shards = [(shard_set, number) for shard_set in sets for number in range(len(shard_set.manifest.shards))]
    if not shards:
        return failed(
            "`data.shards` is empty", "Name a folder or address of shards; `--config scale/tiny.yaml` has some."
        )
    faults = [fault for shard_set in sets for fault in shard_set.check()]
    if full and not faults:
        faults = [fault for each in shards if is_here(*each) and (fault := wrong_bits(*each))]
    if faults:
        return bad(data, listed(faults, f"of {len(shards)} shards wrong"))
    size = sum(shard.size for shard_set in sets for shard in shard_set.manifest.shards)
    found = f"{len(shards)} shards, {size / 1e6:.1f} MB, {'hashes' if full else 'sizes'} as in the manifests"
    if full and (away := sum(not is_here(*each) for each in shards)):
        return warning(f"{found}; not of {away} remote ones", NOT_FETCHED)
    return ok(found)


def is_here(shard_set: ShardSet, shard: int) -> bool:
    """Whether a shard can be read without fetching it."""
    manifest = shard_set.manifest
    return not shard_set.is_remote or (manifest.folder / manifest.shards[shard].name).exists()


def wrong_bits(shard_set: ShardSet, shard: int) -> str:
    """What is wrong with a shard whose size is right; empty where nothing is."""
    path, wanted = shard_set.shard_path(shard), shard_set.manifest.shards[shard].sha256
    if (found := file_sha256(path)) == wanted:
        return ""
    return f"{path} hashes to {found[:12]}..., the manifest says {wanted[:12]}...: bits are wrong. Copy it anew"


def check_rows(data: ShardData) -> Finding:
    """The view makes rows, and enough for a step."""
    data.setup("fit")
    rows = len(data.train_rows)
    found = f"{rows} rows, {data.steps_per_epoch} steps an epoch; " + data.train_rows.summary().replace("\n", "; ")
    if rows < data.batch_size:
        return warning(
            f"{found}; a step takes {data.batch_size}, so it is filled with holes",
            "Lower `data.batch_size`, or name more shards.",
        )
    return ok(found)


def check_samples(data: ShardData) -> Finding:
    """The first row of every shard reads, decodes and becomes tokens and pixels."""
    encode = RowEncoder(data.template, max_length=NO_LIMIT)
    numbers = [(rows, number) for rows in data.row_sets for number in first_rows(rows)]
    if not numbers:
        return warning("no remote shard is fetched yet", NOT_FETCHED)
    faults = [fault for rows, number in numbers if (fault := row_fault(rows, number, encode))]
    if faults:
        return bad(data, listed(faults, f"of the {len(numbers)} first rows unusable"))
    return ok(f"the first row of each of {len(numbers)} shards decodes as {data.template.name}")


def row_fault(rows: RowSet, number: int, encode: RowEncoder) -> str:
    """What is wrong with a row; empty where nothing is."""
    try:
        encode.group(rows[number])
    except (SampleError, ShardError, FileNotFoundError) as error:
        return str(error)
    return ""


def bad(data: ShardData, found: str) -> Finding:
    """Broken samples or shards: what they mean is for `data.on_bad` to say."""
    if data.on_bad == "quarantine":
        return warning(found, "`data.on_bad: quarantine` leaves out what is lost, within its budget.")
    return failed(found, "Mend or replace them; `--data.on_bad quarantine` would leave them out, within a budget.")


def first_rows(rows: RowSet) -> Iterator[int]:
    """Number of the first row of every shard that is here."""
    start = 0
    for shard_set, source in zip(rows.sets, rows.order_sources, strict=True):
        shards, numbers = np.unique(source.shards, return_index=True)
        yield from (start + int(n) for shard, n in zip(shards, numbers, strict=True) if is_here(shard_set, int(shard)))
        start += len(source.shards)


def check_lengths(data: ShardData) -> Finding:
    """The longest rows fit `data.max_length`, or what happens to those that do not is said."""
    encode = RowEncoder(data.template, max_length=NO_LIMIT)
    numbers = longest_rows(data)
    if not numbers:
        return warning("no remote shard is fetched yet", NOT_FETCHED)
    faults = [fault for number in numbers if (fault := row_fault(data.train_rows, number, encode))]
    if faults:
        return bad(data, listed(faults, f"of the {len(numbers)} longest rows unusable"))
    found = {number: longest_sequence(data.train_rows, number, encode) for number in numbers}
    most = max(found.values(), default=0)
    seen = f"{most} tokens in the longest of {len(found)} rows looked at, {data.max_length} allowed"
    over = [number for number, length in found.items() if length > data.max_length]
    if not over:
        return ok(seen)
    remedy = f"Raise `data.max_length` to {most}, or set `data.overlong` to `refuse` or `truncate`."
    at_least = f"{len(over)} rows or more are longer than `data.max_length`"
    if data.overlong == "raise":
        return failed(f"{at_least}; {seen}", remedy)
    return warning(f"{at_least}, and `data.overlong` is {data.overlong}; {seen}", remedy)


def longest_rows(data: ShardData) -> list[int]:
    """The longest rows by the manifest, of the shards that are here."""
    rows = data.train_rows
    lengths = rows.estimated_lengths(data.template.num_image_tokens)
    here = np.concatenate(
        [
            np.isin(source.shards, [n for n in np.unique(source.shards).tolist() if is_here(shard_set, n)])
            for shard_set, source in zip(rows.sets, rows.order_sources, strict=True)
        ]
    )
    ranked = np.argsort(-np.where(here, lengths, -1), kind="stable")[:LONGEST]
    return [int(number) for number in ranked if here[number]]


def longest_sequence(rows: RowSet, number: int, encode: RowEncoder) -> int:
    """Tokens of a row's prompt and its longest trained answer, as `data.max_length` counts."""
    return max(
        len(row.prompt) + max((len(a.ids) for a in row.answers if a.role != Role.MISMATCHED), default=0)
        for row in encode.group(rows[number])
    )


def listed(faults: list[str], what: str) -> str:
    """`2 of 8 shards wrong: ...; ...`."""
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"{len(faults)} {what}: {'; '.join(faults[:SHOWN])}{more}"
