"""`mmalign doctor`: every check passes where all is well, and fails on the fault that it is for."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmalign import cli, planned
from mmalign.checkpoint import DirectoryCheckpointIO
from mmalign.data.datamodule import ShardData
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools import doctor, doctor_data, doctor_disk, doctor_machine, doctor_model
from mmalign.tools.doctor_findings import Check, Status, examine, ok, unknown
from mmalign.tools.doctor_ranks import collectives
from mmalign.tools.doctor_run import Subject, Wanted, check_launcher, count_devices

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


@pytest.fixture
def subject(tiny_llava, color_shards, tmp_path):
    """`subject(*options)`: the tiny run as `fit` would get it; nothing is loaded yet."""

    def build(*options):
        return Subject(
            [
                *cli.with_shipped_configs(["--config=dpo.yaml", "--config=scale/tiny.yaml"]),
                f"--model.backbone.checkpoint={tiny_llava}",
                "--model.backbone.lora_rank=4",
                f"--data.shards={color_shards}",
                "--data.val_shards=",
                "--data.batch_size=8",
                "--data.micro_batch_size=4",
                f"--trainer.default_root_dir={tmp_path / 'run'}",
                *options,
            ]
        )

    return build


@pytest.fixture
def data(tiny_llava, color_shards):
    """`data(**settings)`: what `fit` would read."""

    def build(**settings):
        standing = {"shards": str(color_shards), "checkpoint": tiny_llava, "batch_size": 8, "micro_batch_size": 4}
        return ShardData(view=Pairs(), template="llava_hf", **standing | settings)

    return build


@pytest.fixture
def own_shards(color_shards, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(color_shards, tmp_path / "shards"))


@pytest.fixture
def own_llava(tiny_llava, tmp_path):
    return Path(shutil.copytree(tiny_llava, tmp_path / "llava"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lines(*checks):
    return {result.name: result for result in examine(checks)}


# Running checks


def test_a_check_that_breaks_is_a_finding_and_the_others_run():
    def broken():
        raise ZeroDivisionError("by nothing")

    found = lines(Check("first", broken), Check("second", lambda: ok("fine")))
    assert found["first"].status == Status.FAILED
    assert "ZeroDivisionError: by nothing" in found["first"].found
    assert found["second"].status == Status.OK


def test_what_stands_on_a_failed_or_unknown_check_is_not_checked():
    def wrong():
        raise ValueError("`x` is wrong. Set it.")

    found = lines(
        Check("a", wrong),
        Check("b", lambda: ok("fine"), ("a",)),
        Check("c", lambda: ok("fine"), ("b",)),
        Check("d", lambda: unknown("not here", "Get it.")),
        Check("e", lambda: ok("fine"), ("d",)),
    )
    assert found["a"].found == "`x` is wrong. Set it."
    assert [found[name].status for name in "abcde"] == [Status.FAILED, *[Status.WARNING] * 4]
    assert "`a`" in found["b"].remedy
    assert "`a`" in found["c"].remedy, "the cause, not the next in line"
    assert found["e"].found == "not checked"


# The machine


def test_the_tested_versions_pass():
    finding = doctor_machine.check_versions()
    assert finding.status == Status.OK
    assert f"torch {version('torch')}" in finding.found


@pytest.mark.parametrize(
    ("installed", "status", "word"),
    [("2.5.1", Status.FAILED, "torch 2.5.1 is not >=2.6"), ("2.99.0", Status.WARNING, "torch 2.99.0 (tested: ")],
)
def test_another_version_of_a_package_is_told(monkeypatch, installed, status, word):
    monkeypatch.setattr(doctor_machine, "version", lambda name: installed if name == "torch" else version(name))
    finding = doctor_machine.check_versions()
    assert finding.status == status
    assert word in finding.found
    assert "constraints.txt" in finding.remedy


def test_a_package_that_is_not_installed_fails(monkeypatch):
    def absent(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor_machine, "version", absent)
    finding = doctor_machine.check_versions()
    assert finding.status == Status.FAILED
    assert "peft is not installed" in finding.found


def test_gpus_that_are_wanted_and_not_there_fail(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor_machine.check_gpus(0, bfloat16=True).status == Status.OK
    finding = doctor_machine.check_gpus(4, bfloat16=True)
    assert finding.status == Status.FAILED
    assert "4 wanted, none usable" in finding.found


@pytest.mark.parametrize(
    ("wanted", "bf16", "free", "status", "word"),
    [
        (2, True, 80, Status.OK, "2 here (0: Test GPU, 80 GiB; 1: Test GPU, 80 GiB)"),
        (4, True, 80, Status.FAILED, "4 wanted, 2 here"),
        (2, False, 80, Status.FAILED, "cannot compute in bfloat16"),
        (2, True, 10, Status.WARNING, "others use GPU [0, 1]"),
    ],
)
def test_gpus_are_counted_and_looked_at(monkeypatch, wanted, bf16, free, status, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    gpu = SimpleNamespace(name="Test GPU", total_memory=80 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free * GIB, 80 * GIB))
    finding = doctor_machine.check_gpus(wanted, bfloat16=True)
    assert finding.status == status
    assert word in finding.found


def test_little_memory_warns(monkeypatch):
    monkeypatch.setattr(doctor_machine, "host_memory", lambda: 2 * GIB)
    assert doctor_machine.check_memory(GIB).status == Status.OK
    finding = doctor_machine.check_memory(30 * GIB)
    assert finding.status == Status.WARNING
    assert "2.0 GiB free, 30.0 GiB wanted" in finding.found


def test_shared_memory_must_hold_the_batches_of_the_workers(monkeypatch):
    def free(amount):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, 0, amount))

    free(16 * GIB)
    assert doctor_machine.check_shared_memory(16, 10 * 2**20).status == Status.OK
    free(GIB)
    assert doctor_machine.check_shared_memory(16, 64 * 2**20).status == Status.FAILED
    free(64 * 2**20)
    finding = doctor_machine.check_shared_memory(0, 0)
    assert finding.status == Status.WARNING
    assert "--ipc=host" in finding.remedy


def test_too_few_open_files_fail(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert doctor_machine.check_open_files(4, 12).status == Status.OK
    finding = doctor_machine.check_open_files(64, 12)
    assert finding.status == Status.FAILED
    assert "ulimit -n" in finding.remedy


# Ranks


@pytest.mark.slow
def test_ranks_that_reach_one_another_pass():
    finding = collectives(2, "gloo")
    assert finding.status == Status.OK
    assert "2 ranks, gloo" in finding.found
    assert "GB/s" in finding.found


@pytest.mark.gpu
def test_the_gpus_of_this_machine_reach_one_another():
    assert collectives(torch.cuda.device_count(), "nccl").status == Status.OK


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSTOP, "rank 1 did not answer within 20 s: stuck while"),
        (signal.SIGKILL, "rank 1 ended with exit code -9"),
    ],
)
def test_a_rank_that_never_answers_is_named(number, words):
    def strike():
        while len(children := multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        os.kill(max(child.pid for child in children), number)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    finding = collectives(2, "gloo", timeout_s=20.0)
    thread.join()
    assert finding.status == Status.FAILED
    assert words in finding.found
    assert "rank 0 did" not in finding.found
    assert not multiprocessing.active_children()


# Disks


def test_a_folder_that_is_not_there_yet_is_checked_and_not_made(tmp_path):
    finding = doctor_disk.check_folder(tmp_path / "a" / "b", need=1)
    assert finding.status == Status.OK
    assert "MB/s" in finding.found
    assert not list(tmp_path.iterdir())


def test_a_full_disk_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GIB, 0, 5 * GIB))
    finding = doctor_disk.check_folder(tmp_path, need=20 * GIB)
    assert finding.status == Status.FAILED
    assert "5.0 GiB free, 20.0 GiB wanted" in finding.found


def test_a_folder_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    assert doctor_disk.check_folder(tmp_path / "file" / "run").status == Status.FAILED


def test_a_disk_that_does_not_rename_fails(monkeypatch, tmp_path):
    def copy(source, target):
        shutil.copytree(source, target)

    monkeypatch.setattr(Path, "rename", copy)
    finding = doctor_disk.check_folder(tmp_path)
    assert finding.status == Status.FAILED
    assert "not what was moved" in finding.found


@pytest.mark.parametrize(
    ("mount", "nodes", "status"),
    [("ext4", 1, "ok"), ("ext4", 2, "warning"), ("nfs4", 2, "ok"), ("fuse.s3fs", 1, "warning")],
)
def test_the_file_system_must_suit_the_run(monkeypatch, tmp_path, mount, nodes, status):
    monkeypatch.setattr(doctor_disk, "file_system", lambda folder: mount)
    assert doctor_disk.check_folder(tmp_path, nodes=nodes).status == status


def test_file_systems_are_told_apart(tmp_path):
    assert doctor_disk.file_system(Path("/proc/self")) == "proc"
    assert doctor_disk.file_system(tmp_path / "later") not in ("proc", "unknown")


def test_a_checkpoint_goes_there_and_back_and_leaves_nothing(tmp_path):
    finding = doctor_disk.check_round_trip(tmp_path / "runs" / "new")
    assert finding.status == Status.OK
    assert not list(tmp_path.iterdir())


def test_a_disk_that_flips_a_bit_fails_the_round_trip(monkeypatch, tmp_path):
    save = DirectoryCheckpointIO.save_checkpoint

    def flipping(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        flip(Path(path) / "adapter.safetensors")

    monkeypatch.setattr(DirectoryCheckpointIO, "save_checkpoint", flipping)
    finding = lines(Check("round trip", lambda: doctor_disk.check_round_trip(tmp_path)))["round trip"]
    assert finding.status == Status.FAILED
    assert "adapter.safetensors is damaged" in finding.found
    assert not list(tmp_path.iterdir())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# The config


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
    [run] = [each.run for each in doctor.checks_of(subject(option)) if each.name == check]
    found = lines(Check(check, run))[check]
    assert found.status == Status.FAILED
    assert words in found.found


def test_the_plan_is_compared_with_the_machine(monkeypatch, subject):
    assert doctor.check_plan(subject()).status == Status.OK
    monkeypatch.setattr(planned, "host_memory", lambda: GIB // 4)
    finding = doctor.check_plan(subject())
    assert finding.status == Status.FAILED
    assert "of 0.27 GB" in finding.found
    assert "Lower `data.num_workers`" in finding.remedy


def test_a_plan_for_gpus_that_are_not_here_is_no_pass(monkeypatch, subject):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--trainer.accelerator=gpu", "--trainer.devices=2", "--trainer.strategy=zero3"]
    finding = doctor.check_plan(subject(*options))
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
            doctor_data.check_shards(run.data, full=True),
            doctor_data.check_rows(run.data),
            doctor_data.check_samples(run.data),
            doctor_data.check_lengths(run.data),
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


# Shards and rows


def test_sound_shards_pass(data):
    sound = data()
    assert "3 shards" in doctor_data.check_shards(sound, full=True).found
    assert doctor_data.check_rows(sound).status == Status.OK
    assert "each of 3 shards" in doctor_data.check_samples(sound).found
    assert doctor_data.check_lengths(sound).status == Status.OK


def shards_line(data, *, full=False):
    return lines(Check("shards", lambda: doctor_data.check_shards(data, full=full)))["shards"]


def test_shards_that_are_cut_or_gone_are_named(data, own_shards):
    cut, gone, _ = sorted(own_shards.glob("*.tar"))
    cut.write_bytes(cut.read_bytes()[:-512])
    gone.unlink()
    found = shards_line(data(shards=str(own_shards)))
    assert found.status == Status.FAILED
    assert "2 of 3 shards wrong" in found.found
    assert cut.name in found.found
    assert gone.name in found.found


def test_a_flipped_bit_is_found_with_full(data, own_shards):
    path = sorted(own_shards.glob("*.tar"))[1]
    flip(path)
    damaged = data(shards=str(own_shards))
    assert shards_line(damaged).status == Status.OK
    found = shards_line(damaged, full=True)
    assert found.status == Status.FAILED
    assert path.name in found.found


def test_a_folder_without_shards_fails(data, tmp_path):
    assert "no such folder" in shards_line(data(shards=str(tmp_path / "nowhere"))).found
    assert "`data.shards` is empty" in shards_line(data(shards="")).found


def test_a_first_sample_that_does_not_decode_is_named(data, png, tmp_path):
    question = Message("user", (ImageSlot(), Text("What is this?")))
    answers = (Response(text="Red.", ratings={"helpfulness": 4, "correctness": 4, "coherence": 4}),
               Response(text="Blue.", ratings={"helpfulness": 1, "correctness": 1, "coherence": 1}))  # fmt: skip
    with ShardWriter(tmp_path / "broken") as writer:
        for key, image in (("bad", png("red")[:40]), ("good", png("red"))):
            writer.write(Sample(key=key, messages=(question,), images=(image,), responses=answers))
    broken = data(shards=str(tmp_path / "broken"))
    broken.setup("fit")
    finding = doctor_data.check_samples(broken)
    assert finding.status == doctor_data.check_lengths(broken).status == Status.FAILED
    assert "000000.tar/bad" in finding.found
    broken.on_bad = "quarantine"
    assert doctor_data.check_samples(broken).status == Status.WARNING


@pytest.mark.parametrize(("overlong", "status"), [("raise", "failed"), ("refuse", "warning"), ("truncate", "warning")])
def test_rows_longer_than_allowed_are_counted(data, overlong, status):
    narrow = data(max_length=60, overlong=overlong)
    narrow.setup("fit")
    finding = doctor_data.check_lengths(narrow)
    assert finding.status == status
    assert "rows or more are longer" in finding.found
    assert "60 allowed" in finding.found


def test_fewer_rows_than_a_step_takes_warn(data):
    assert doctor_data.check_rows(data(batch_size=64)).status == Status.WARNING


# The checkpoint


def test_a_sound_checkpoint_passes(data, tiny_llava):
    assert doctor_model.check_checkpoint(tiny_llava).status == Status.OK
    assert "16 tokens a picture" in doctor_model.check_processor(data()).found


def test_weights_that_are_not_here_are_named(own_llava):
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}
    (own_llava / "model.safetensors").rename(own_llava / "model-1.safetensors")
    finding = doctor_model.check_checkpoint(str(own_llava))
    assert finding.status == Status.FAILED
    assert "no weights here" in finding.found
    (own_llava / "model.safetensors.index.json").write_text(json.dumps(weights))
    finding = doctor_model.check_checkpoint(str(own_llava))
    assert finding.status == Status.FAILED
    assert "model-2.safetensors and 1 more weight files are not here" in finding.found


def test_a_hub_checkpoint_is_not_downloaded():
    finding = doctor_model.check_checkpoint("llava-hf/llava-1.5-13b-hf")
    assert finding.status == Status.WARNING
    assert not finding.met
    assert "hf download llava-hf/llava-1.5-13b-hf" in finding.remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_token_id": 7}, "the image token's id: processor 3, model 7"),
        ({"vision_feature_select_strategy": "full"}, "tokens a picture: processor 16, model 17"),
    ],
)
def test_a_processor_of_another_model_fails(data, own_llava, changes, words):
    edit(own_llava / "config.json", **changes)
    finding = doctor_model.check_processor(data(checkpoint=str(own_llava)))
    assert finding.status == Status.FAILED
    assert words in finding.found


def preflight_line(run):
    run.data.setup("fit")
    return lines(Check("preflight", lambda: doctor.check_preflight(run)))["preflight"]


def test_the_preflight_of_fit_runs_without_a_store(subject):
    found = preflight_line(subject())
    assert found.status == Status.OK
    assert "loss 0.6931 at the reference" in found.found


def test_damaged_weights_fail_the_preflight(subject, own_llava):
    weights = own_llava / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = preflight_line(subject(f"--model.backbone.checkpoint={own_llava}"))
    assert found.status == Status.FAILED
    assert "No usable LLaVA" in found.found


def test_weights_that_do_not_fit_are_not_loaded(monkeypatch, subject):
    monkeypatch.setattr(doctor_model, "host_memory", lambda: 1000)
    found = preflight_line(subject())
    assert found.status == Status.WARNING
    assert "do not fit" in found.found


def test_without_the_gpus_the_preflight_says_that_it_was_skipped(monkeypatch, subject):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = preflight_line(subject("--trainer.accelerator=gpu", "--trainer.devices=4"))
    assert found.status == Status.WARNING
    assert found.found == "skipped: needs 4 GPUs"


# The command


def test_a_config_that_cannot_be_read_leaves_the_machine_to_check(monkeypatch, subject, capsys):
    monkeypatch.setattr(doctor, "collectives", lambda ranks, backend: ok(f"{ranks} ranks"))
    with pytest.raises(SystemExit) as stopped:
        doctor.main(subject("--model.beta=-1").args)
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "failed   config" in printed
    assert "ok       versions" in printed
    assert "not checked" in printed


@pytest.mark.slow
def test_the_command_passes_the_embedded_model(tmp_path):
    report = tmp_path / "report.json"
    options = ["--config", "dpo.yaml", "--config", "scale/tiny.yaml", "--full", "--json", str(report)]
    began = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "mmalign.cli", "doctor", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    used = os.times().children_user + os.times().children_system - began.children_user - began.children_system
    assert used < 30, "seconds of one processor, whatever else this machine does"
    found = json.loads(report.read_text())
    assert [line["name"] for line in found["checks"] if line["status"] == "failed"] == []
    assert len(done.stdout.splitlines()) >= len(found["checks"]) > 15
    assert os.listdir(tmp_path) == ["report.json"]
