"""Reference stores: per-token log-probabilities of all answers of a shard set under one frozen model.

    shards/mine/reference/5b0c9d1e7f20a4c3/key.json            what the values depend on
    shards/mine/reference/5b0c9d1e7f20a4c3/000000.tar.arrow    one file a shard, rows in manifest order

    key      prompt   answers         logps
    scene7   9f2c..   [77ab.., 0e..]  [[-0.1, -2.3, -0.0], [-1.2, -0.4]]

Sums, means, weighted sums and truncated answers all follow from these. What a value depends on is either in the key,
which names the folder, or hashed beside the value and compared at every read: a stale one cannot be read. Files are
memory-mapped: a worker process that opens a store of any size reads only the rows it is asked for. A run checks every
file once at its start.

Made by  mmalign/reference.py
Tests    tests/data/test_store.py
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from numpy import ndarray

from mmalign.data.manifest import Manifest, short_hash, write_whole
from mmalign.data.sample import ShardError
from mmalign.messages import Message

FOLDER = "reference"
KEY_FILE = "key.json"
FORMAT = 1
"""Goes into every digest. Raise it where mmalign makes other tokens or pixels of a row, and all are made anew."""
SHARD_FIELD, EXTRA_FIELD, CHECKSUM_FIELD = b"mmalign.shard", b"mmalign.extra", b"mmalign.checksum"
UNREAD_FIELD = b"mmalign.unread"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("prompt", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("logps", pa.list_(pa.list_(pa.float32()))),
    ]
)
REMEDY = "Run `mmalign reference` with the options of the run, or `fit` itself: what has changed is computed anew."

TokenLogps = Float32[ndarray, " tokens"]
"""Log-probability (nats) of each token of one answer, end token included unless the answer was cut."""


@dataclass(frozen=True, kw_only=True)
class StoreKey:
    """What the values depend on, besides the prompt and the answer themselves."""

    base: str
    """Hash of the frozen weights and their config."""
    adapter: str
    """Hash of the adapter on them; empty where there is none."""
    template: str
    """Name and hash of the chat format."""
    processor: str
    """Hash of tokenizer and image processor."""
    precision: str
    """Of weights and arithmetic."""
    max_length: int
    """Answers are cut there."""
    variant: str = ""
    """What is done to the pictures; empty where they are left as they are."""

    @property
    def digest(self) -> str:
        """Short hash, the name of the store's folder."""
        return short_hash(json.dumps([FORMAT, asdict(self)], sort_keys=True).encode())


UNREAD = "unread"
"""In the place of the prompt's hash: the sample could not be read. Such a file is not whole, it is tried anew."""


class Scores(NamedTuple):
    """The log-probabilities of one sample's answers."""

    key: str
    prompt: str
    """See `prompt_hash`, or `UNREAD`."""
    answers: tuple[str, ...]
    """`answer_hash` of each answer; none where nothing could be scored: no room behind the prompt, a broken picture."""
    logps: tuple[TokenLogps, ...]
    """Of each answer."""


class StoreError(ShardError):
    """A store that does not hold what is asked of it; the message names it, the sample and the remedy."""


def prompt_hash(messages: Sequence[Message], images: Sequence[bytes]) -> str:
    """Hash of a prompt: its messages and the bytes of its pictures.

    Args:
        messages: As they are given to the template.
        images: Encoded.
    """
    digest = hashlib.sha256(json.dumps([message.to_record() for message in messages]).encode())
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()[:32]


def answer_hash(text: str) -> str:
    """Hash of an answer, the one that the manifest has."""
    return short_hash(text.encode())


class Origin(NamedTuple):
    """What a file was made of; with another one, it is incomplete."""

    shard: str
    """sha256 of the shard."""
    extra: str = ""
    """Hash of the answers that are not the samples' own (KTO's mismatched ones); empty where there are none."""
    unread: bool = False
    """A sample of it could not be read."""

    def serves(self, wanted: "Origin") -> bool:
        """Whether a file of this origin has all that is wanted."""
        return self.shard == wanted.shard and wanted.extra in ("", self.extra) and not self.unread


def write_scores(path: Path, scores: Sequence[Scores], origin: Origin) -> None:
    """Write a file of a store, whole or not at all.

    Args:
        path: Where.
        scores: Of consecutive samples.
        origin: What they were made of.
    """
    columns = {
        "key": [each.key for each in scores],
        "prompt": [each.prompt for each in scores],
        "answers": [each.answers for each in scores],
        "logps": [each.logps for each in scores],
    }
    batch = pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
    metadata = {SHARD_FIELD: origin.shard, EXTRA_FIELD: origin.extra, CHECKSUM_FIELD: _checksum(batch)}
    if any(each.prompt == UNREAD for each in scores):
        metadata[UNREAD_FIELD] = "yes"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA.with_metadata(metadata)) as writer:
        writer.write_batch(batch)
    write_whole(path, sink.getvalue().to_pybytes())


def origins(manifest: Manifest, others: Sequence[tuple[int, int]] | None) -> list[Origin]:
    """What the file of each shard is made of.

    Args:
        manifest: Of the shard set.
        others: For each sample another prompt's answer, (sample, response), scored as well.
    """
    if others is None:
        return [Origin(shard.sha256) for shard in manifest.shards]
    answers = manifest.table.column("answers")
    hashes = [answers[sample][response].as_py() for sample, response in others]
    ends = list(accumulate(shard.samples for shard in manifest.shards))
    return [
        Origin(shard.sha256, short_hash("".join(hashes[end - shard.samples : end]).encode()))
        for shard, end in zip(manifest.shards, ends, strict=True)
    ]


def write_key(folder: Path, key: StoreKey) -> None:
    """Say in a folder, for people, what its values depend on."""
    write_whole(folder / KEY_FILE, json.dumps(asdict(key), indent=1).encode())


class ScoreFile:
    """One file of a store, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Map it.

        Raises:
            FileNotFoundError: Not there.
            StoreError: Cut, or no file of a store.
        """
        self.path = path
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                self._batch = reader.get_batch(0)
                metadata = reader.schema.metadata or {}
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, IndexError) as error:
            raise StoreError(f"{path}: not a whole file of a reference store ({error}). {REMEDY}") from error
        if self._batch.schema.names != SCHEMA.names or {SHARD_FIELD, EXTRA_FIELD, CHECKSUM_FIELD} - metadata.keys():
            raise StoreError(f"{path}: an Arrow file, but not one of a reference store. {REMEDY}")
        self.origin = Origin(
            metadata[SHARD_FIELD].decode(), metadata[EXTRA_FIELD].decode(), unread=UNREAD_FIELD in metadata
        )
        self._expected = metadata[CHECKSUM_FIELD].decode()

    def verify(self) -> None:
        """Raise `StoreError` where a bit is wrong; reads all of it."""
        if _checksum(self._batch) != self._expected:
            raise StoreError(f"{self.path}: damaged, its checksum is not the one it was written with. {REMEDY}")

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._batch.num_rows)

    def __getitem__(self, number: int) -> Scores:
        """The scores of one sample; arrays are copies."""
        key, prompt, answers, logps = (self._batch.column(name)[number] for name in SCHEMA.names)
        values = tuple(np.array(tokens.values, dtype=np.float32) for tokens in logps.values)
        return Scores(key.as_py(), prompt.as_py(), tuple(answers.as_py()), values)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each sample, by its key."""
        return {key: number for number, key in enumerate(self._batch.column("key").to_pylist())}


@dataclass
class ReferenceStore:
    """The log-probabilities of one shard set under one reference."""

    folder: Path
    shards: tuple[tuple[str, str, int], ...]
    """Name, sha256 and number of samples of each shard, in manifest order."""
    _files: dict[int, ScoreFile] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "ReferenceStore":
        """The store in a folder.

        Args:
            folder: Holds a file for each shard.
            manifest: Of the shard set.
        """
        return cls(folder, tuple((shard.name, shard.sha256, shard.samples) for shard in manifest.shards))

    def logps(
        self, sample: int, messages: Sequence[Message], images: Sequence[bytes], answers: Sequence[str], *, where: str
    ) -> tuple[TokenLogps, ...]:
        """What the reference says of answers to the prompt in hand; no token of any where nothing could be scored.

        The encoder refuses such a row for the same reason as it did then.

        Args:
            sample: Its number in the manifest.
            messages: The prompt as the model gets it.
            images: Its pictures, encoded.
            answers: Texts.
            where: Shard and sample, for messages.

        Raises:
            StoreError: The store is gone, damaged, or was made for another prompt or other answers.
        """
        shard = bisect_right(self._ends, sample)
        name, _, samples = self.shards[shard]
        scores = self._file(shard)[sample - (self._ends[shard] - samples)]
        if scores.prompt == UNREAD:
            raise StoreError(
                f"{where}: it could not be read when {file_of(self.folder, name)} was made, but now it can. {REMEDY}"
            )
        if scores.prompt != prompt_hash(messages, images):
            raise StoreError(
                f"{where}: the reference log-probabilities in {file_of(self.folder, name)} were computed for another "
                "prompt: text or pictures differ, or `data.view` changes the prompt, which no store knows of. "
                f"{REMEDY} If it is the view, choose another one, or a method without a reference."
            )
        if not scores.answers:
            return tuple(np.zeros(0, dtype=np.float32) for _ in answers)
        known = dict(zip(scores.answers, scores.logps, strict=True))
        for text in answers:
            if answer_hash(text) not in known:
                raise StoreError(
                    f"{where}: no reference log-probabilities of the answer {text[:40]!r} in "
                    f"{file_of(self.folder, name)}, which was made when the shard had others. {REMEDY}"
                )
        return tuple(known[answer_hash(text)] for text in answers)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(samples for _, _, samples in self.shards))

    def _file(self, shard: int) -> ScoreFile:
        if shard not in self._files:
            name, sha256, samples = self.shards[shard]
            path = file_of(self.folder, name)
            try:
                found = ScoreFile(path)
            except FileNotFoundError as error:
                raise StoreError(f"{path}: this file of the reference store is gone. {REMEDY}") from error
            if (found.origin.shard, len(found)) != (sha256, samples):
                raise StoreError(f"{path} was made from other bytes of the shard {name}. {REMEDY}")
            self._files[shard] = found
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes map the files themselves."""
        return vars(self) | {"_files": {}}


def file_of(folder: Path, shard: str) -> Path:
    """The file of one shard in a store."""
    return folder / f"{shard}.arrow"


def _checksum(batch: pa.RecordBatch) -> str:
    return hashlib.sha256(batch.serialize()).hexdigest()
