"""What a plan says of a run that fits, and of one that does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmalign.architecture import read_architecture
from mmalign.memory import MicroBatch, Model, Placement
from mmalign.plan import (
    Processes,
    Room,
    Run,
    advice,
    device_items,
    gigabytes,
    host_items,
    make_plan,
    smaller,
    total,
)

PLENTY = Room(gpu=10**15, host=10**15, disk=10**15)


@pytest.fixture(scope="module")
def run():
    """LLaVA-1.5-13B on one of four GPUs under ZeRO-3."""
    config, source = read_architecture("llava-hf/llava-1.5-13b-hf")
    return Run(
        model=Model(config=config, rank=128),
        architecture=source,
        batch=MicroBatch(
            rows=8, tokens=1000, pictures=8, targets=3200, autocast=True, dropout=True, on_gpu=True, recomputed=0.0
        ),
        tokens_from="this test",
        typical_tokens=800,
        responses=2,
        accumulation=4,
        processes=Processes(Placement(sharding="zero3", ranks=4, per_node=4), True, True, Path("runs/x"), 5),
        num_workers=4,
        image_values=3 * 336**2,
        rows=1000,
        manifest_bytes=10**6,
        stored_logps=10**6,
    )


def placed(run, **placement):
    return replace(run, processes=run.processes._replace(placement=Placement(**placement)))


def test_where_there_is_room_nothing_lacks(run):
    assert make_plan(run, PLENTY).lacks == []
    assert make_plan(run, Room(None, None, None)).lacks == [], "nobody knows how large that machine is"


@pytest.mark.parametrize("short", ["gpu", "host", "disk"])
def test_what_lacks_is_said_with_both_numbers(run, short):
    plan = make_plan(run, PLENTY._replace(**{short: 2 * 10**9}))
    (lack,) = plan.lacks
    assert gigabytes(total(getattr(plan, short))) in lack
    assert "2.00 GB" in lack


def test_advice_names_what_really_fits(run):
    """Each alternative is planned itself, and those named are those that fit."""
    room = PLENTY._replace(gpu=80 * 10**9)
    assert total(device_items(run)) > room.gpu
    told = advice(run, room)
    for option, other in smaller(run):
        assert (f"`{option}`" in told) == (total(device_items(other)) <= room.gpu)
    assert "--model.backbone.gradient_checkpointing true" in told


def test_where_nothing_fits_the_least_is_named(run):
    told = advice(run, PLENTY._replace(gpu=10**9))
    assert min(total(device_items(other)) for _, other in smaller(run)) > 10**9
    assert "The least found is" in told


def test_every_alternative_needs_less(run):
    for start in (
        run,
        placed(run, sharding="ddp", ranks=4, per_node=4),
        placed(run, sharding="replicated", ranks=1, per_node=1),
    ):
        needs = [total(device_items(other)) for _, other in smaller(start)]
        assert len(needs) >= 4
        assert max(needs) < total(device_items(start))


def test_one_rank_reads_the_checkpoint_under_zero3_and_every_rank_otherwise(run):
    reading = [
        next(
            item.bytes
            for item in host_items(placed(run, sharding=sharding, ranks=4, per_node=4), [])
            if item.name == "checkpoint"
        )
        for sharding in ("zero3", "ddp")
    ]
    assert reading == [2 * run.model.frozen, 4 * 2 * run.model.frozen]


def test_cpu_ranks_train_in_host_memory(run):
    on_cpu = replace(run, processes=run.processes._replace(on_gpu=False))
    plan = make_plan(on_cpu, PLENTY._replace(gpu=None))
    assert plan.host[0].bytes == 4 * total(plan.gpu)
    assert not any("assumed" in item.how for item in plan.gpu), "nothing of CUDA"


def test_activations_and_gradients_share_memory_only_within_one_micro_batch(run):
    """As gradients come, activations go; those of an earlier micro-batch lie beside all activations."""
    once = replace(run, accumulation=1)
    fragments = 0.05
    gradients = next(item.bytes for item in device_items(run) if item.name == "gradients")
    saved = total(device_items(run)) - total(device_items(once))
    assert saved == pytest.approx((1 + fragments) * gradients, rel=1e-3)
