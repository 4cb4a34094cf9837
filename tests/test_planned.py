"""What is read off a run for its plan, and the warning of a run that cannot fit."""

import warnings
from pathlib import Path

import pytest

from mmalign import planned
from mmalign.backbone import BackboneSettings
from mmalign.data.datamodule import ShardData
from mmalign.data.rowset import RowSet
from mmalign.data.views import Pairs
from mmalign.memory import Placement, Zero
from mmalign.methods.base import OptimSettings
from mmalign.methods.dpo import DPO
from mmalign.methods.mdpo import MDPO
from mmalign.plan import Processes
from mmalign.planned import RoomCheck, check_room, describe, processes_of, room_of, sharding_of, zero_of


@pytest.fixture
def processes(tmp_path):
    placement = Placement(sharding="replicated", ranks=1, per_node=1)
    return Processes(placement, on_gpu=False, autocast=False, run_dir=tmp_path / "run", kept_checkpoints=5)


def method(checkpoint="embedded", kind=DPO):
    return kind(BackboneSettings(checkpoint=checkpoint, dtype="float32", lora_rank=4), OptimSettings(lr=1e-4))


def data(**settings):
    return ShardData(Pairs(), **{"batch_size": 8, "micro_batch_size": 4, "max_length": 300} | settings)


def test_rows_are_as_long_as_the_data_says_and_else_as_long_as_they_may_be(processes, color_shards):
    supposed = describe(method(), data(), processes)
    assert (supposed.batch.tokens, supposed.tokens_from) == (304, "`data.max_length`"), "padded to a multiple of 8"
    known = data(shards=str(color_shards))
    known.train_rows = RowSet(known.train_sources, Pairs())
    run = describe(method(), known, processes)
    longest = int(known.train_rows.estimated_lengths(16).max())
    assert longest <= run.batch.tokens < longest + 8
    assert (run.rows, run.batch.pictures) == (len(known.train_rows), 2 * 4), "samples hold up to two pictures"
    assert run.stored_logps > 0


def test_a_token_budget_bounds_the_batch(processes):
    assert describe(method(), data(max_tokens=400), processes).batch.tokens == 100


def test_a_method_with_a_second_picture_has_twice_the_rows(processes):
    assert describe(method(kind=MDPO), data(), processes).batch.rows == 8


def test_strategies_are_known_by_name_and_by_class():
    named = {"auto": "replicated", "ddp": "ddp", "zero3": "zero3", "zero3_cpu": "zero3", "CPUZero3Strategy": "zero3"}
    named |= {"SingleDeviceStrategy": "replicated", "DDPStrategy": "ddp"}
    for name, sharding in named.items():
        assert sharding_of(name, 1 if sharding == "replicated" else 4) == sharding
    assert sharding_of("auto", 4) == "ddp"
    assert sharding_of("XLAStrategy", 4) is sharding_of("ModelParallelStrategy", 4) is None


def test_what_a_strategy_tells_deepspeed_is_planned():
    told = {"stage": 3, "reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": "auto"}
    assert zero_of(told) == Zero(reduce_bucket_size=1000)


def test_a_run_that_cannot_fit_is_warned_of_with_both_numbers(processes, monkeypatch):
    monkeypatch.setattr(planned, "host_memory", lambda: 500_000_000)
    with pytest.warns(UserWarning, match=r"needs 1\..* GB of host memory and has 0\.50 GB free.*mmalign plan"):
        check_room(method(), data(), processes)


def test_a_run_whose_weights_alone_do_not_fit_is_stopped_with_both_numbers(processes, monkeypatch):
    """The embedded model has 1.7 million parameters in float32."""
    monkeypatch.setattr(planned, "host_memory", lambda: 5_000_000)
    with pytest.raises(ValueError, match=r"would hold 0\.01 GB of weights.* alone and has 0\.01 GB"):
        check_room(method(), data(), processes)


def test_what_a_run_has_written_already_needs_no_room_once_more(processes):
    before = room_of(processes).disk
    folder = processes.run_dir / "checkpoints/step-000002"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(bytes(50_000_000))
    assert room_of(processes).disk == pytest.approx(before, abs=40_000_000)


def test_a_run_that_fits_is_not(processes, monkeypatch):
    monkeypatch.setattr(planned, "host_memory", lambda: 10**12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_room(method(), data(), processes)
        check_room(method(), data(), None)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "CGROUP", tmp_path)
    free = planned.host_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert planned.host_memory() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert planned.host_memory() == 2_000_000


def test_room_that_is_told_counts_and_a_gpu_run_elsewhere_is_not_judged_by_this_machine(processes, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert room_of(processes._replace(on_gpu=True)) == (None, None, None)
    assert room_of(processes._replace(on_gpu=True), gpu_gb=80.0, host_gb=500.0) == (80e9, 500e9, None)
    here = room_of(processes)
    assert here.gpu is None
    assert min(here.host, here.disk) > 0


class LoadedError(Exception):
    """Weights are being loaded."""


@pytest.mark.slow
def test_fit_warns_before_it_loads_weights(fit, monkeypatch):
    monkeypatch.setattr(planned, "host_memory", lambda: 100_000_000)

    def load(*args, **kwargs):
        raise LoadedError

    monkeypatch.setattr("mmalign.backbone.load_llava", load)
    with pytest.warns(UserWarning, match="host memory"), pytest.raises(LoadedError):
        fit()


@pytest.mark.slow
def test_a_checkpoint_is_as_large_as_planned(fit, tmp_path):
    cli = fit("--trainer.max_steps=1", "--model.backbone.lora_rank=64")
    assert any(isinstance(callback, RoomCheck) for callback in cli.trainer.callbacks)
    written = [path for path in (tmp_path / "run/checkpoints").iterdir() if path.name.startswith("step-")]
    size = sum(file.stat().st_size for file in written[0].rglob("*") if file.is_file())
    seen = processes_of(cli.trainer)
    run = describe(cli.model, cli.datamodule, seen)
    one = planned.make_plan(run, room_of(seen)).disk[0].bytes / seen.kept_checkpoints
    assert one == pytest.approx(size, rel=0.15)
    assert seen.run_dir == Path(tmp_path / "run")
