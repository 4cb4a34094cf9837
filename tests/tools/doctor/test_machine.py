"""`mmalign doctor` on the machine: versions, GPUs, memory, open files."""

import resource
import shutil
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest
import torch

from mmalign.tools.doctor import machine
from mmalign.tools.doctor.findings import Status

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


def test_the_tested_versions_pass():
    finding = machine.check_versions()
    assert finding.status == Status.OK
    assert f"torch {version('torch')}" in finding.found


@pytest.mark.parametrize(
    ("installed", "status", "word"),
    [("2.5.1", Status.FAILED, "torch 2.5.1 is not >=2.6"), ("2.99.0", Status.WARNING, "torch 2.99.0 (tested: ")],
)
def test_another_version_of_a_package_is_told(monkeypatch, installed, status, word):
    monkeypatch.setattr(machine, "version", lambda name: installed if name == "torch" else version(name))
    finding = machine.check_versions()
    assert finding.status == status
    assert word in finding.found
    assert "constraints.txt" in finding.remedy


def test_a_package_that_is_not_installed_fails(monkeypatch):
    def absent(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(machine, "version", absent)
    finding = machine.check_versions()
    assert finding.status == Status.FAILED
    assert "peft is not installed" in finding.found


def test_gpus_that_are_wanted_and_not_there_fail(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.check_gpus(0, bfloat16=True).status == Status.OK
    finding = machine.check_gpus(4, bfloat16=True)
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
    finding = machine.check_gpus(wanted, bfloat16=True)
    assert finding.status == status
    assert word in finding.found


def test_little_memory_warns(monkeypatch):
    monkeypatch.setattr(machine, "host_memory", lambda: 2 * GIB)
    assert machine.check_memory(GIB).status == Status.OK
    finding = machine.check_memory(30 * GIB)
    assert finding.status == Status.WARNING
    assert "2.0 GiB free, 30.0 GiB wanted" in finding.found


def test_shared_memory_must_hold_the_batches_of_the_workers(monkeypatch):
    def free(amount):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, 0, amount))

    free(16 * GIB)
    assert machine.check_shared_memory(16, 10 * 2**20).status == Status.OK
    free(GIB)
    assert machine.check_shared_memory(16, 64 * 2**20).status == Status.FAILED
    free(64 * 2**20)
    finding = machine.check_shared_memory(0, 0)
    assert finding.status == Status.WARNING
    assert "--ipc=host" in finding.remedy


def test_too_few_open_files_fail(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert machine.check_open_files(4, 12).status == Status.OK
    finding = machine.check_open_files(64, 12)
    assert finding.status == Status.FAILED
    assert "ulimit -n" in finding.remedy
