"""The reference pass: what frozen models say of every answer, computed once and kept beside the shards.

    shard set --> blocks of samples, dealt to ranks --> rows: one prompt, all its answers --> token log-probabilities
              --> a part for each block --> when all are there: a file for each shard, see mmalign/data/store.py

All answers are scored, whichever the view takes now, so another pair rule, loss, beta or seed computes nothing. Killed
and run again, the pass goes on behind the last finished block. Values that are still right are kept: new ratings cost
a read of their shard, a new answer costs that answer.

Tests    tests/reference/
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import Batch, Role
from mmalign.data.datamodule import ShardData
from mmalign.data.manifest import Manifest
from mmalign.data.missing import (
    PARTS,
    Block,
    Plan,
    alone,
    blocks_of,
    choose_folder,
    is_whole,
    make_plan,
    part_of,
    store_folders,
)
from mmalign.data.reader import ShardSet
from mmalign.data.rows import STAND_IN, Answer, OnBad, Row, RowEncoder
from mmalign.data.rowset import CHARACTERS_PER_TOKEN, RowSet
from mmalign.data.store import (
    Origin,
    ReferenceStore,
    ScoreFile,
    Scores,
    StoreError,
    StoreKey,
    file_of,
    origins,
    write_key,
    write_scores,
)
from mmalign.data.unscored import Others, Unscored, Work
from mmalign.data.variants import Variant
from mmalign.data.workers import STALL_S, load
from mmalign.fingerprints import store_keys
from mmalign.sharding import is_sharded

LOGGER = logging.getLogger(__name__)

Score = Callable[[Batch], Tensor]
"""Log-probability of each target of a batch."""
Model = Callable[[], AbstractContextManager[Score]]
"""A frozen model: inside its context it is ready to score."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that share the work; one by itself unless said otherwise."""

    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], None] = lambda: None
    """Waits until all ranks are there."""
    broadcast: Callable[[Any], Any] = lambda value: value
    """What rank 0 gives, on every rank."""
    any: Callable[[bool], bool] = bool
    """Whether something holds on one of them."""
    sharded: bool = False
    """Whether each holds a part of the weights only: then all must run the model equally often."""

    @classmethod
    def of(cls, trainer: Trainer) -> "Ranks":
        """Those of a trainer."""
        strategy, device = trainer.strategy, trainer.strategy.root_device
        return cls(
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            barrier=strategy.barrier,
            broadcast=strategy.broadcast,
            any=lambda here: bool(strategy.reduce(torch.tensor(float(here), device=device), reduce_op="sum")),
            sharded=is_sharded(trainer.lightning_module),
        )


@dataclass(frozen=True, kw_only=True)
class References:
    """Completes stores: finds what is missing, and has it scored."""

    encoder: RowEncoder
    """Cuts answers at its `max_length`, refuses prompts that leave them no room."""
    collator: Callable[..., Batch]
    micro_batch_size: int
    """Samples of one forward pass."""
    num_workers: int = 0
    stall_s: float = STALL_S
    """Seconds without a sign of life after which a worker is given up."""
    on_bad: OnBad = "stop"
    """Stop where the bytes of a sample are lost, or go on without its values."""
    ranks: Ranks = Ranks()
    progress: bool = True
    """Show a bar on rank 0."""

    def store(
        self, shard_set: ShardSet, key: StoreKey, model: Model, *, variant: Variant | None = None, others: Others = None
    ) -> ReferenceStore:
        """The complete store of a shard set; what is missing is computed. All ranks must call it.

        Args:
            shard_set: What to score.
            key: Says what the values depend on.
            model: Scores.
            variant: What is done to the pictures.
            others: Another prompt's answer for each sample, scored as well.

        Raises:
            StoreError: A log-probability is not a number, or no folder can be written to.
            SampleError, ShardError: The shards cannot be read.
        """
        manifest, wanted = shard_set.manifest, origins(shard_set.manifest, others)
        with self._plan(manifest, key, wanted) as plan:
            if plan.missing:
                unscored = Unscored(
                    shard_set, self.encoder, self.collator, variant, others, plan.known, on_bad=self.on_bad
                )
                with model() as score:
                    self._score(manifest, plan, wanted, unscored, score)
                self.ranks.barrier()
                self._join(manifest, plan, wanted)
                self.ranks.barrier()
                if self.ranks.rank == 0:
                    shutil.rmtree(plan.folder / PARTS)
        return ReferenceStore.of(plan.folder, manifest)

    @contextmanager
    def _plan(self, manifest: Manifest, key: StoreKey, wanted: Sequence[Origin]) -> Iterator[Plan]:
        """What is missing, as rank 0 finds it; inside this context no other run works on the same."""
        if self.ranks.rank:
            yield self.ranks.broadcast(None)
            return
        folders = store_folders(manifest, key)
        whole = (folder for folder in folders if is_whole(folder, manifest, wanted))
        if (found := next(whole, None)) is not None:
            rank_zero_info(f"{manifest.location}: all reference log-probabilities are in {found}.")
            yield self.ranks.broadcast(Plan(found, [], [], {}))
            return
        folder = choose_folder(folders)
        with alone(folder):
            write_key(folder, key)
            plan = make_plan(folder, folders, manifest, wanted)
            todo = sum(block.end - block.first for block in plan.blocks)
            rank_zero_info(
                f"{manifest.location}: reference log-probabilities of {len(manifest) - todo} of {len(manifest)} "
                f"samples are in {folder}; {todo} samples are read now, and what is unknown of them is computed."
            )
            yield self.ranks.broadcast(plan)

    def _score(
        self, manifest: Manifest, plan: Plan, wanted: Sequence[Origin], unscored: Unscored, score: Score
    ) -> None:
        """Score this rank's blocks, and write each when it is done."""
        blocks = plan.blocks[self.ranks.rank :: self.ranks.world_size]
        samples = [(block, numbers) for block in blocks for numbers in self._micro_batches(manifest, block)]
        loader = load(
            unscored,
            [numbers for _, numbers in samples],
            num_workers=self.num_workers,
            stall_s=self.stall_s,
            rank=self.ranks.rank,
        )
        done = dict[int, Scores]()
        with _bar(enabled=self.progress and self.ranks.rank == 0) as bar:
            task = bar.add_task("reference", total=sum(block.end - block.first for block in blocks))
            for (block, numbers), work in zip(samples, loader, strict=True):
                self._join_in(score, more=True, busy=work.batch is not None)
                for fault in work.faults:
                    LOGGER.warning("Not scored: %s", fault)
                done |= zip(numbers, scored(work, score), strict=True)
                if len(done) == block.end - block.first:
                    path = part_of(plan.folder, manifest, block)
                    path.parent.mkdir(exist_ok=True)
                    write_scores(path, [done[number] for number in sorted(done)], wanted[block.shard])
                    done.clear()
                bar.advance(task, len(numbers))
            while self._join_in(score, more=False, busy=False):
                pass

    def _join_in(self, score: Score, *, more: bool, busy: bool) -> bool:
        """Where ranks hold parts of the weights: run the model for nothing, if others run it and this rank does not.

        Args:
            score: The model.
            more: Whether this rank has samples left, this turn's included.
            busy: Whether it will run the model for them now.

        Returns:
            Whether any rank has samples left.
        """
        if not self.ranks.sharded:
            return more
        work, goes_on = self.ranks.any(busy), self.ranks.any(more)
        if work and not busy:
            answer = Answer("", Role.ANSWER)
            score(self.collator([self.encoder.stand_in(Row("", STAND_IN, answers=(answer,)), "")]))
        return goes_on

    def _micro_batches(self, manifest: Manifest, block: Block) -> list[list[int]]:
        """The block's samples, those of like lengths together; the same however many ranks there are."""
        entries = {number: manifest.entry(number) for number in range(block.first, block.end)}
        picture = self.encoder.template.num_image_tokens
        lengths = {n: len(e.images) * picture + sum(e.lengths) // CHARACTERS_PER_TOKEN for n, e in entries.items()}
        order = sorted(entries, key=lambda number: (-lengths[number], number))
        return [order[at : at + self.micro_batch_size] for at in range(0, len(order), self.micro_batch_size)]

    def _join(self, manifest: Manifest, plan: Plan, wanted: Sequence[Origin]) -> None:
        """Make the file of each shard of its parts."""
        for shard in plan.missing[self.ranks.rank :: self.ranks.world_size]:
            parts = []
            for block in blocks_of(manifest, shard):
                try:
                    parts.append(ScoreFile(part_of(plan.folder, manifest, block)))
                except FileNotFoundError as error:
                    raise StoreError(
                        f"{error.filename}: another rank has written this, but it is not here. All ranks must see the "
                        "same folders: keep the shards, or XDG_CACHE_HOME where they are remote, on a shared disk."
                    ) from error
            scores = [part[number] for part in parts for number in range(len(part))]
            write_scores(file_of(plan.folder, manifest.shards[shard].name), scores, wanted[shard])


def prepare_references(llava: Llava, backbone: BackboneSettings, references: Sequence[str], trainer: Trainer) -> None:
    """Complete the stores that a stage reads, and attach them to its data. All ranks must call it.

    Afterwards the random state, and the model's weights and modes, are what they were.

    Args:
        llava: On its device.
        backbone: What it was built of.
        references: "" is what the run starts from; others are adapters on the base, by folder.
        trainer: Of the stage; its data gets the stores.

    Raises:
        StoreError, SampleError, ShardError: See `References.store`.
        FileNotFoundError, ValueError: A reference cannot be loaded.
    """
    data: ShardData = trainer.datamodule  # type: ignore[attr-defined]
    ranks = Ranks.of(trainer)
    computing = References(
        encoder=RowEncoder(data.template, max_length=data.max_length, overlong="truncate"),
        collator=data.collator,
        micro_batch_size=data.micro_batch_size,
        num_workers=data.num_workers,
        stall_s=data.remote.stall_s,
        on_bad=data.on_bad,
        ranks=ranks,
        progress=trainer.progress_bar_callback is not None,
    )
    describe = partial(store_keys, backbone, references, data.template)
    keys: dict[str, StoreKey] = ranks.broadcast(
        describe(precision=str(trainer.precision), max_length=data.max_length) if ranks.rank == 0 else None
    )

    def score(batch: Batch) -> Tensor:
        """As the module's own forward pass: there ZeRO-3 begins to count anew which parameters come when."""
        with trainer.precision_plugin.forward_context():
            found: Tensor = trainer.lightning_module(move_data_to_device(batch, trainer.strategy.root_device))
        return found

    models = {each: partial(frozen, llava, each, score) for each in references}
    for rows in data.row_sets:
        rows.attach([_stores(computing, rows, source, keys, models) for source in range(len(rows.sets))])


def _stores(
    computing: References, rows: RowSet, source: int, keys: Mapping[str, StoreKey], models: Mapping[str, Model]
) -> dict[str, list[ReferenceStore]]:
    """What all references say of one source, for each picture variant of the view."""
    found = {}
    for variant in rows.variants:
        name = "" if variant is None else repr(variant)
        found[name] = [
            computing.store(
                rows.sets[source],
                replace(key, variant=name),
                models[each],
                variant=variant,
                others=rows.mismatched[source],
            )
            for each, key in keys.items()
        ]
    return found


@contextmanager
def frozen(llava: Llava, reference: str, score: Score) -> Iterator[Score]:
    """Inside this context the model is a reference, in eval mode; afterwards it is what it was.

    Args:
        llava: On its device.
        reference: "" is what the run starts from, else an adapter on the base, by folder.
        score: Asks the model, whatever it is.
    """
    device = next(llava.parameters()).device
    modes = {module: module.training for module in llava.modules()}
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        llava.adapter_as_reference(reference) if reference else llava.reference(),
    ):
        llava.eval()
        try:
            yield score
        finally:
            for module, mode in modes.items():
                module.training = mode


def scored(work: Work, score: Score) -> list[Scores]:
    """The samples with all their values.

    Args:
        work: Samples, and what is unknown of them.
        score: Computes that.

    Raises:
        StoreError: A value is not a finite number.
    """
    if work.batch is None:
        return work.scores
    values = score(work.batch).float().cpu().numpy()
    lengths = np.bincount(work.batch.response_index.numpy(), minlength=work.batch.num_responses)
    logps = [list(each.logps) for each in work.scores]
    found = zip(work.places, work.batch.row_index, np.split(values, lengths.cumsum()[:-1]), strict=True)
    for (sample, answer), row, tokens in found:
        if not np.isfinite(tokens).all():
            raise StoreError(
                f"{work.batch.keys[row]}: a reference log-probability of its answer {answer} is not a finite number. "
                "Look at the sample with `mmalign inspect`; if it is sound, the weights of `model.backbone.checkpoint` "
                "are not, or `model.backbone.dtype` is too narrow for them."
            )
        logps[sample][answer] = tokens
    return [each._replace(logps=tuple(found)) for each, found in zip(work.scores, logps, strict=True)]


class _Rate(ProgressColumn):
    """Samples per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} samples/s")


def _bar(*, enabled: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not enabled)
