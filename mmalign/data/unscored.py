"""Samples on their way into a reference store: what is known of them, and the rest as a batch; what a worker holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from mmalign.batch import Batch, Role
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Answer, EncodedRow, OnBad, Row, RowEncoder
from mmalign.data.sample import Sample, SampleError, ShardError
from mmalign.data.store import UNREAD, ScoreFile, Scores, TokenLogps, answer_hash, prompt_hash
from mmalign.data.variants import Variant

ROW_TOKENS = 4096
"""Tokens of a row at most, unless one answer alone needs more: further answers get another row."""

Others = Sequence[tuple[int, int]] | None
"""For each sample another prompt's answer, (sample, response); None: none is scored."""


class Work(NamedTuple):
    """Some samples, and what is unknown of them."""

    scores: list[Scores]
    """Unknown values are empty."""
    batch: Batch | None
    """The unknown answers; None where there are none."""
    places: list[tuple[int, int]]
    """Sample and answer of each response of the batch."""
    faults: list[str]
    """Of samples that cannot be scored. They get no values; a run that uses them says the same, or leaves them out."""


class _Unscored(NamedTuple):
    """One sample."""

    scores: Scores
    unknown: tuple[int, ...] = ()
    """Answers to be scored."""
    rows: tuple[EncodedRow, ...] = ()
    fault: str = ""


class Unscored(Dataset[Work | Exception]):
    """Work by the numbers of its samples, or the user's error as a value (see `Batches`)."""

    def __init__(
        self,
        shard_set: ShardSet,
        encoder: RowEncoder,
        collator: Callable[[Sequence[EncodedRow]], Batch],
        variant: Variant | None,
        others: Others,
        known: Mapping[int, Sequence[Path]],
        *,
        on_bad: OnBad = "stop",
    ) -> None:
        """Remember where all comes from.

        Args:
            shard_set: The samples.
            encoder: Cuts answers, and refuses prompts that leave no room.
            collator: Rows -> batch.
            variant: What is done to the pictures.
            others: Another prompt's answer for each sample.
            known: Files with values that may be kept, by shard.
            on_bad: What to do where the bytes of a sample are lost: `stop`; `quarantine`: go on without its values.
        """
        self.shard_set = shard_set
        self.encoder = encoder
        self.collator = collator
        self.variant = variant
        self.others = others
        self.known = known
        self.on_bad = on_bad
        self._files: dict[Path, ScoreFile] = {}

    def __getitem__(self, numbers: Sequence[int]) -> Work | Exception:
        """Read and encode some samples."""
        try:
            return self._work(numbers)
        except (ValueError, FileNotFoundError) as error:
            return error

    def _work(self, numbers: Sequence[int]) -> Work:
        samples = [self._sample(number) for number in numbers]
        rows = [row for sample in samples for row in sample.rows]
        return Work(
            scores=[sample.scores for sample in samples],
            batch=self.collator(rows) if rows else None,
            places=[(index, answer) for index, sample in enumerate(samples) for answer in sample.unknown],
            faults=[sample.fault for sample in samples if sample.fault],
        )

    def _sample(self, number: int) -> _Unscored:
        manifest = self.shard_set.manifest
        shard = manifest.extent(number).shard
        try:
            sample = self.shard_set[number]
            texts = self._texts(sample, number)
        except SampleError as error:
            return _Unscored(Scores(manifest.key(number), "", (), ()), fault=str(error))
        except (ShardError, FileNotFoundError) as error:
            if self.on_bad == "stop":
                raise
            return _Unscored(Scores(manifest.key(number), UNREAD, (), ()), fault=str(error))
        prompt = prompt_hash(sample.messages, sample.images)
        known = self._known(shard, sample.key, prompt)
        values = tuple(known.get(answer, np.zeros(0, dtype=np.float32)) for answer in texts)
        scores = Scores(sample.key, prompt, tuple(texts), values)
        unknown = tuple(position for position, answer in enumerate(texts) if answer not in known)
        if not unknown:
            return _Unscored(scores)
        answers = tuple(Answer(texts[scores.answers[position]], Role.ANSWER) for position in unknown)
        key = f"{manifest.shards[shard].name}/{sample.key}"
        try:
            row = self.encoder(Row(key, sample.messages, sample.images, answers, variant=self.variant))
        except ValueError as error:
            return _Unscored(scores._replace(answers=(), logps=()), fault=str(error))
        if row.refusal:  # the prompt leaves no room for an answer, as the encoder will find in training, too
            return _Unscored(scores._replace(answers=(), logps=()))
        return _Unscored(scores, unknown, tuple(_cut(row)))

    def _texts(self, sample: Sample, number: int) -> dict[str, str]:
        """The answers to be scored, by hash: each text once, no empty one."""
        texts = [response.text for response in sample.responses if response.text.strip()]
        if self.others is not None:
            other, response = self.others[number]
            texts.append(self.shard_set[other].responses[response].text)
        return {answer_hash(text): text for text in texts}

    def _known(self, shard: int, key: str, prompt: str) -> dict[str, TokenLogps]:
        """Values from earlier files that still hold: behind the same prompt."""
        found = dict[str, TokenLogps]()
        for path in self.known.get(shard, ()):
            if path not in self._files:
                self._files[path] = ScoreFile(path)
            file = self._files[path]
            if key in file.numbers and (scores := file[file.numbers[key]]).prompt == prompt:
                found |= zip(scores.answers, scores.logps, strict=True)
        return found


def _cut(row: EncodedRow) -> Iterator[EncodedRow]:
    """The same prompt in as many rows as its answers need."""
    taken, tokens = list(row.answers[:0]), len(row.prompt)
    for answer in row.answers:
        if taken and tokens + len(answer.ids) > ROW_TOKENS:
            yield row._replace(answers=tuple(taken))
            taken, tokens = [], len(row.prompt)
        taken.append(answer)
        tokens += len(answer.ids)
    yield row._replace(answers=tuple(taken))
