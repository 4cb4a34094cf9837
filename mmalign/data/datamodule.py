"""Shards -> batches, as Lightning wants them.

    data:
      shards: [{path: shards/mine, weight: 0.5}, https://host/shards/theirs]
      view: {class_path: mmalign.data.views.Pairs}

    manifest --> view, order --> row --> tokens and pixels --> Batch

Tests    tests/data/test_datamodule.py, tests/data/test_resume.py
"""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from mmalign.batch import Batch
from mmalign.data import reading
from mmalign.data.collate import Collator
from mmalign.data.loader import EncodedRows, FixedLoader, RowLoader, Share
from mmalign.data.order import Slot, padded_length
from mmalign.data.quarantine import QUARANTINE_NAME, Quarantine
from mmalign.data.remote import Remote
from mmalign.data.rows import EncodedRow, OnBad, Overlong, RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import ShardError
from mmalign.data.views import View
from mmalign.processor import load_processor
from mmalign.template import Template, TemplateName

PREVIEWED = 200
"""Rows among which `ShardData.preview` looks for usable ones."""


class ShardData(LightningDataModule):
    """Streams shard sets under one view; the order is exact, and resumes at any batch on any number of devices."""

    def __init__(
        self,
        view: View,
        shards: str | list[str | Source] = "",
        val_shards: str | list[str | Source] = "",
        checkpoint: str = "",
        template: TemplateName = "vicuna_v1",
        pad_images: bool = True,
        batch_size: int = 128,
        micro_batch_size: int = 8,
        group_by_length: bool = True,
        share: float = 1.0,
        max_length: int = 3000,
        max_tokens: int | None = None,
        overlong: Overlong = "raise",
        on_bad: OnBad = "stop",
        bad_share: float = 0.001,
        bad_in_a_row: int = 100,
        num_workers: int = 0,
        cache_gb: float = 200.0,
        stall_s: float = 30.0,
        seed: int = 0,
        window: int = 4,
        pad_to_multiple: int = 8,
    ) -> None:
        """Store the settings; shards are opened in `setup`.

        Args:
            view: What makes training rows of samples, for instance
                `{class_path: mmalign.data.views.Pairs, init_args: {margin: 2}}`.
            shards: What to train on: one or several folders or addresses of shards, or `{path: ..., weight: ...}`.
                `world` is the small set that ships with mmalign.
            val_shards: What to validate on, the same way; empty validates nothing. `world-heldout` ships with mmalign.
            checkpoint: The model whose tokenizer and image processor prepare the rows; taken from `model.backbone`.
            template: Conversation format; taken from `model.backbone`.
            pad_images: Pad pictures to a square, or crop their centre; taken from `model.backbone`.
            batch_size: Rows of one optimizer step, over all devices. The steps do not depend on the number of devices.
            micro_batch_size: Rows of one forward pass on one device; the rest of a step is accumulated.
            group_by_length: Sort the rows of each step, the longest first, so that micro-batches hold rows of like
                lengths, and ranks too at any time. Which rows a step has does not change.
            share: Of the rows of each source, train on this share only, in (0, 1]: the same rows in every epoch, and a
                smaller share lies within a larger one. Chosen by `data.seed`. Reference stores hold all rows anyway.
            max_length: Tokens of a prompt with its image tokens and one answer, at most.
            max_tokens: Positions of one micro-batch, padding included, at most; null: any number. A guard against
                running out of memory: what exceeds it is not trained, and that depends on `micro_batch_size`.
            overlong: What to do with longer rows: `raise` an error, `refuse` the row, or `truncate` the answer's end.
                Prompts and pictures are never cut; refused and truncated rows are counted in the logs. Above
                `max_tokens`: `raise`, or else refuse the longest rows of the micro-batch.
            on_bad: What to do with a sample that cannot be used, for its shard is cut, its picture broken or its record
                wrong: `stop` with an error, or `quarantine` it: a hole takes its place, and shard, key and reason are
                listed in `quarantine.jsonl` of the run's directory.
            bad_share: Broken samples that a quarantine allows, for each row of an epoch; one in any case.
            bad_in_a_row: Broken rows one after the other, on one device, at which it stops, too.
            num_workers: Processes per device that read and prepare rows; 0 does it in the training process.
            cache_gb: Remote shards are kept on this machine up to so many GB (10^9 bytes), of all runs together; those
                go that were not read for the longest time.
            stall_s: Seconds without a byte after which a remote shard is fetched anew (5 times at most), or, where no
                new try can help, the run ends and names what it was reading.
            seed: Of the order of the rows; `seed_everything` does not change it.
            window: Shards that are mixed with one another and read at a time, on top of the order of the shards.
            pad_to_multiple: Row lengths are padded up to a multiple of this.
        """
        super().__init__()
        self.train_sources, self.val_sources = as_sources(shards), as_sources(val_shards)
        self.view = view
        self.checkpoint, self.template_name, self.pad_images = checkpoint, template, pad_images
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.group_by_length, self.share = group_by_length, share
        self.max_length, self.max_tokens, self.overlong = max_length, max_tokens, overlong
        self.on_bad, self.bad_share, self.bad_in_a_row = on_bad, bad_share, bad_in_a_row
        self.remote = Remote(stall_s=stall_s, cache_gb=cache_gb)
        self.num_workers, self.seed, self.window, self.pad_to_multiple = num_workers, seed, window, pad_to_multiple
        _at_least(1, batch_size=batch_size, micro_batch_size=micro_batch_size, max_length=max_length, window=window)
        _at_least(1, pad_to_multiple=pad_to_multiple)
        if max_tokens is not None:
            _at_least(1, max_tokens=max_tokens)
        if not 0 < share <= 1:
            raise ValueError(f"`data.share` is the part of the rows to train on, in (0, 1], got {share}. 1 takes all.")
        if not 0 < bad_share <= 1:
            raise ValueError(
                f"`data.bad_share` is a part of the rows of an epoch, in (0, 1], got {bad_share}. 0.001 forgives one "
                "broken sample in a thousand; `data.on_bad: stop` forgives none."
            )
        _at_least(1, bad_in_a_row=bad_in_a_row)
        for name, value in (("cache_gb", cache_gb), ("stall_s", stall_s)):
            if value <= 0:
                raise ValueError(f"`data.{name}` must be above 0, got {value}.")
        _at_least(0, num_workers=num_workers, seed=seed)

    def accumulation(self, world_size: int) -> int:
        """Forward passes of each device in one optimizer step.

        Args:
            world_size: Number of devices.

        Raises:
            ValueError: The step cannot be cut evenly.
        """
        return self._share(world_size=world_size, rank=0).accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch, the last one filled with holes."""
        rows = sum(source.per_epoch for source in self.train_rows.order_sources)
        return padded_length(rows, self.batch_size) // self.batch_size

    def setup(self, stage: str) -> None:
        """Load the manifests and say which samples are usable; no sample is read."""
        processor = load_processor(self.checkpoint, pad_images=self.pad_images)
        self.template = Template(processor, self.template_name)
        self.encoder = RowEncoder(self.template, max_length=self.max_length, overlong=self.overlong)
        self.collator = Collator(
            pad_token_id=self.template.tokenizer.pad_token_id, pad_to_multiple=self.pad_to_multiple
        )
        if stage == "fit":
            self.train_rows = self._open(self.train_sources, "data.shards", share=self.share)
        if self.val_sources or stage == "validate":
            self.val_rows = self._open(self.val_sources, "data.val_shards")

    @property
    def row_sets(self) -> tuple[RowSet, ...]:
        """What this stage reads."""
        return tuple(getattr(self, name) for name in ("train_rows", "val_rows") if hasattr(self, name))

    def train_dataloader(self) -> RowLoader:
        assert self.trainer is not None
        image_tokens = self.template.num_image_tokens
        lengths = self.train_rows.estimated_lengths(image_tokens) if self.group_by_length else None
        return RowLoader(
            EncodedRows(self.train_rows, self.encoder, self.on_bad),
            self.collator,
            self._share(world_size=self.trainer.world_size, rank=self.trainer.global_rank),
            seed=self.seed,
            window=self.window,
            lengths=lengths,
            max_tokens=self.max_tokens,
            num_workers=self.num_workers,
            quarantine=self._quarantine(self.train_rows),
            stall_s=self.remote.stall_s,
        )

    def val_dataloader(self) -> FixedLoader | list[FixedLoader]:
        """All rows, the same batches each time; no loader where there is nothing to validate on."""
        if not self.val_sources:
            return []
        assert self.trainer is not None
        world_size = self.trainer.world_size
        share = Share(
            batch_size=self.micro_batch_size * world_size,
            micro_batch_size=self.micro_batch_size,
            world_size=world_size,
            rank=self.trainer.global_rank,
        )
        return FixedLoader(
            EncodedRows(self.val_rows, self.encoder, self.on_bad),
            self.collator,
            share,
            max_tokens=self.max_tokens,
            num_workers=self.num_workers,
            quarantine=self._quarantine(self.val_rows),
            stall_s=self.remote.stall_s,
        )

    def preview(self) -> tuple[Batch, list[str]]:
        """The first usable rows of the training set, in manifest order, and the text of each answer in the batch.

        Nothing of the training order is used up. Rows that are refused are passed over, as far as `PREVIEWED`; if
        there are no others, they stand there, and their answers are the empty text.
        """
        rows = EncodedRows(self.train_rows, self.encoder, self.on_bad)
        groups = {number: rows[Slot(number, 1.0)] for number in range(min(self.micro_batch_size, len(self.train_rows)))}
        behind = iter(range(len(groups), min(PREVIEWED, len(self.train_rows))))
        while (refused := [number for number in groups if _refused(groups[number])]) and (
            following := next(behind, None)
        ) is not None:
            del groups[refused[-1]]
            groups[following] = rows[Slot(following, 1.0)]
        encoded = [row for group in groups.values() for row in group]
        texts = [text for number, group in groups.items() for text in self._texts(number, group)]
        reading.end()
        return self.collator(encoded), texts

    def _texts(self, number: int, group: Sequence[EncodedRow]) -> list[str]:
        if _refused(group):
            return [""] * sum(len(row.answers) for row in group)
        return [answer.text for row in self.train_rows[number] for answer in row.answers]

    def _share(self, *, world_size: int, rank: int) -> Share:
        return Share(
            batch_size=self.batch_size, micro_batch_size=self.micro_batch_size, world_size=world_size, rank=rank
        )

    def _open(self, sources: Sequence[Source], config_key: str, *, share: float = 1.0) -> RowSet:
        if not sources:
            raise ValueError(
                f"`{config_key}` is empty: name a folder or an address of shards (`mmalign import` makes them), or use "
                "`--config scale/tiny.yaml`, which runs on the embedded model and the shards that ship with mmalign."
            )
        rows = RowSet(sources, self.view, config_key=config_key, share=share, seed=self.seed, remote=self.remote)
        faults = [fault for shard_set in rows.sets for fault in shard_set.check()]
        if faults and self.on_bad == "stop":
            others = f" {len(faults) - 1} more shards are damaged." if len(faults) > 1 else ""
            raise ShardError(f"{faults[0]}{others} `data.on_bad: quarantine` would leave out what is lost.")
        for fault in faults:
            rank_zero_warn(f"What is lost of it will be left out: {fault}")
        rank_zero_info(rows.summary())
        return rows

    def _quarantine(self, rows: RowSet) -> Quarantine | None:
        if self.on_bad == "stop":
            return None
        assert self.trainer is not None
        return Quarantine(
            Path(self.trainer.default_root_dir) / QUARANTINE_NAME,
            frozenset(source.path for source in rows.sources),
            rows=sum(source.per_epoch for source in rows.order_sources),
            share=self.bad_share,
            in_a_row=self.bad_in_a_row,
            rank=self.trainer.global_rank,
        )


def _refused(group: Sequence[EncodedRow]) -> bool:
    return any(row.refusal for row in group)


def as_sources(shards: str | Sequence[str | Source]) -> tuple[Source, ...]:
    """Sources from what a config may say: one name, or a list of names and sources.

    Args:
        shards: `"world"`, or `["world", Source(path="shards/mine", weight=0.5)]`; empty is no source.
    """
    named = [shards] if isinstance(shards, str) and shards else shards
    return tuple(each if isinstance(each, Source) else Source(path=each) for each in named)


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"`data.{name}` must be at least {minimum}, got {value}.")
