"""`mmalign doctor` on a config: read as `fit` reads it, its plan, its launcher, shards that lie elsewhere."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from mmalign import planned
from mmalign.tools.doctor import command
from mmalign.tools.doctor.data import check_lengths, check_rows, check_samples, check_shards
from mmalign.tools.doctor.findings import Check, Status, examine
from mmalign.tools.doctor.run import Wanted, check_launcher, count_devices

GIB = 2**30


@pytest.mark.parametrize(
    ("devices", "count"), [(4, 4), ("4", 4), ([0, 2], 2), ("0,2", 2), ("0,", 1), (-1, 8), ("-1", 8), ("auto", 8)]
)
def test_devices_are_counted_as_lightning_counts(devices, count):
    assert count_devices(devices, present=8) == count


def test_the_config_is_read_as_fit_reads_it(subject):
    run = subject("--trainer.devices=2", "--trainer.num_nodes=2", "--trainer.strategy=ddp", "--data.batch_size=32")
    assert "DPO on 4 CPU ranks on 2 nodes" in run.check_config().found
    assert run.wanted == Wanted(gpu=False, devices=2, nodes=2, run_dir=run.wanted.run_dir)
    assert "32 rows a step = 4 (ranks) x 4 (rows of a micro-batch) x 2 (micro-batches)" in run.check_batch().found


@pytest.mark.parametrize(
    ("option", "check", "words"),
    [
        ("--model.beta=-1", "config", "beta"),
        ("--model.nothing=1", "config", "nothing"),
        ("--trainer.limit_train_batches=3", "config", "limit_train_batches"),
        ("--data.view=BestOfN", "config", "Choose another view"),
        ("--trainer.devices=3", "batch", "8 cannot be cut into 3 devices"),
        ("--ckpt_path=last", "resume", "no usable checkpoint"),
    ],
)
def test_a_wrong_setting_fails_its_check(subject, option, check, words):
    [run] = [each.run for each in command.checks_of(subject(option)) if each.name == check]
    [found] = examine([Check(check, run)])
    assert found.status == Status.FAILED
    assert words in found.found


def test_the_plan_is_compared_with_the_machine(monkeypatch, subject):
    assert command.check_plan(subject()).status == Status.OK
    monkeypatch.setattr(planned, "host_memory", lambda: GIB // 4)
    finding = command.check_plan(subject())
    assert finding.status == Status.FAILED
    assert "of 0.27 GB" in finding.found
    assert "Lower `data.num_workers`" in finding.remedy


def test_a_plan_for_gpus_that_are_not_here_is_no_pass(monkeypatch, subject):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--trainer.accelerator=gpu", "--trainer.devices=2", "--trainer.strategy=zero3"]
    finding = command.check_plan(subject(*options))
    assert finding.status == Status.WARNING
    assert "no GPU here to compare with" in finding.found


def test_remote_shards_are_asked_for_and_not_fetched(subject, color_shards):
    """Nor is their address taken for a config: Lightning lets jsonargparse fetch what an option names, and read it."""
    handler = partial(SimpleHTTPRequestHandler, directory=color_shards.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/{color_shards.name}"
        run = subject(f"--data.shards={address}")
        assert run.reader.config.data.shards == address
        findings = [
            check_shards(run.data, full=True),
            check_rows(run.data),
            check_samples(run.data),
            check_lengths(run.data),
        ]
        server.shutdown()
        thread.join()
    assert [finding.status for finding in findings] == [Status.WARNING, Status.OK, Status.WARNING, Status.WARNING]
    assert "not of 3 remote ones" in findings[0].found
    assert "no remote shard is fetched yet" in findings[2].found


@pytest.mark.parametrize(
    ("name", "tasks", "status", "word"),
    [
        ("train", "2", Status.OK, "2 tasks a node on 1 nodes"),
        ("train", "4", Status.FAILED, "--ntasks-per-node=2"),
        ("train", None, Status.FAILED, "no number of tasks"),
        ("bash", "2", Status.WARNING, "would not find one another"),
    ],
)
def test_the_tasks_of_a_slurm_job_are_compared(name, tasks, status, word):
    environment = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": name, "SLURM_NNODES": "1"}
    if tasks is not None:
        environment["SLURM_NTASKS_PER_NODE"] = tasks
    finding = check_launcher(Wanted(gpu=False, devices=2), environment)
    assert finding.status == status
    assert word in finding.found + finding.remedy


def test_outside_of_slurm_there_is_no_launcher_to_compare():
    assert check_launcher(Wanted(gpu=False, devices=2), {}).status == Status.OK
