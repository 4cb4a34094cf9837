"""What the machine has: Python and packages, GPUs, memory, shared memory, open files."""

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path

import torch
from packaging.requirements import Requirement

from mmalign.planned import host_memory

from .findings import Finding, failed, graded, ok, warning

GIB = 2**30
OLDEST_PYTHON = (3, 11)
"""As `requires-python` says; compared here because an editable or copied install may run under another one."""
HEADLINE = ("torch", "lightning", "transformers", "peft", "deepspeed")
"""Packages whose versions are shown whatever they are."""
LITTLE_MEMORY = 4 * GIB
"""Below it even the imports and the loader of one process come close to the limit."""
DOCKER_SHM = 64 * 2**20
"""What `docker run` gives /dev/shm unless told otherwise."""
OWN_FILES = 256
"""Open files of a process that loads no data: libraries, logs, sockets between ranks."""
PREFETCHED = 2
"""Batches that each worker of a DataLoader keeps ready."""


def check_versions() -> Finding:
    """Python and every requirement against its floor, and against the set that is tested together."""
    below, untested = list[str](), list[str]()
    if sys.version_info < OLDEST_PYTHON:
        below.append(f"Python {platform.python_version()} is below {'.'.join(map(str, OLDEST_PYTHON))}")
    pins = tested_versions()
    for need in required():
        try:
            installed = version(need.name)
        except PackageNotFoundError:
            below.append(f"{need.name} is not installed, {need} is needed")
            continue
        pin = pins.get(need.name.lower(), installed)
        if not need.specifier.contains(installed, prereleases=True):
            below.append(f"{need.name} {installed} is not {need.specifier}")
        elif installed.partition("+")[0] != pin:
            untested.append(f"{need.name} {installed} (tested: {pin})")
    shown = ", ".join(f"{name} {_version_or_none(name)}" for name in HEADLINE)
    doubts = [f"not tested with {', '.join(untested)}"] if untested else []
    return graded(
        f"Python {platform.python_version()}, {shown}",
        faults=below,
        doubts=doubts,
        remedy="Install the tested set: `pip install -c constraints.txt mmalign`; it lies in " + str(_constraints()),
    )


def required() -> Iterator[Requirement]:
    """What mmalign itself requires, extras left out."""
    for line in requires("mmalign") or []:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield need


def tested_versions() -> dict[str, str]:
    """Version of each package, in lower case, in the set that the tests run with."""
    lines = _constraints().read_text().splitlines()
    pins = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.lower(): pin for name, pin in pins}


def check_gpus(wanted: int, *, bfloat16: bool) -> Finding:
    """GPUs on this machine against those that the config wants.

    Args:
        wanted: On this machine; 0 where it wants none.
        bfloat16: Whether the config computes in it.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not present:
        if wanted:
            return failed(f"{wanted} wanted, none usable: {_why_no_gpu()}", _gpu_remedy(wanted))
        return ok("none here, none wanted")
    shown = "; ".join(f"{index}: {_gpu(index)}" for index in range(present))
    found = f"{present} here ({shown}), driver {_driver()}, CUDA {torch.version.cuda}"
    if present < wanted:
        return failed(f"{wanted} wanted, {found}", _gpu_remedy(wanted))
    if bfloat16 and wanted and not torch.cuda.is_bf16_supported(including_emulation=False):
        return failed(
            f"{found}; they cannot compute in bfloat16, which the config asks for",
            "Take GPUs of compute capability 8.0 or later, or `--trainer.precision 32-true --model.backbone.dtype "
            "float32`.",
        )
    busy = [index for index in range(wanted) if _free_share(index) < 0.9]
    if busy:
        return warning(f"{found}; others use GPU {busy}", "Look with `nvidia-smi` who does, or take other GPUs.")
    return ok(found)


def check_memory(need: int = LITTLE_MEMORY) -> Finding:
    """Host memory that is free, limits of the container included.

    Args:
        need: Bytes.
    """
    free = host_memory()
    found = f"{free / GIB:.1f} GiB free, {need / GIB:.1f} GiB wanted"
    if free < need:
        return warning(found, "End other programs, ask for more (SLURM: `--mem`), or the kernel may kill the run.")
    return ok(found)


def check_shared_memory(workers: int, batch_bytes: int) -> Finding:
    """Room in /dev/shm for the batches that DataLoader workers hand over.

    Args:
        workers: Of all ranks on this machine.
        batch_bytes: Of one micro-batch; 0 where it is not known.
    """
    free = shutil.disk_usage("/dev/shm").free
    need = workers * PREFETCHED * batch_bytes
    found = f"{free / GIB:.2f} GiB free in /dev/shm"
    wanted = f"{workers} workers with {batch_bytes / 1e6:.1f} MB a batch need {need / GIB:.2f}"
    remedy = "Give it more (`docker run --ipc=host` or `--shm-size 16g`), or set `--data.num_workers 0`."
    if need > free:
        return failed(f"{found}, {wanted}", remedy)
    if free <= DOCKER_SHM:
        return warning(f"{found}: docker's default, at which workers die of a bus error", remedy)
    return ok(f"{found}, {wanted}" if workers else found)


def check_open_files(workers: int, tensors: int) -> Finding:
    """The limit of open files: torch passes every tensor from a worker as one.

    Args:
        workers: Of one rank.
        tensors: Of one batch.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = OWN_FILES + workers * PREFETCHED * tensors
    found = f"{soft} may be open at a time, about {need} are wanted"
    if soft < need:
        return failed(found, f"Raise the limit before the start: `ulimit -n {max(need, 4096)}` (up to {hard} here).")
    return ok(found)


def _constraints() -> Path:
    """The pinned set: a link to the checkout's file, in the wheel a copy."""
    return Path(str(files("mmalign.tools"))) / "constraints.txt"


def _version_or_none(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"


def _free_share(index: int) -> float:
    free, total = torch.cuda.mem_get_info(index)
    return free / total


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if shutil.which("nvidia-smi") is None:
        return "there is no driver (`nvidia-smi` is not found)"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"torch sees none with driver {_driver()}" + (f", CUDA_VISIBLE_DEVICES={hidden}" if hidden else "")


def _gpu_remedy(wanted: int) -> str:
    return (
        f"Run on a machine with {wanted}, set `--trainer.devices`, or lay `--config scale/tiny.yaml` over it (embedded "
        "model, CPU). If the GPUs are there, install a torch built for their driver."
    )


def _driver() -> str:
    """Version of the driver, as `nvidia-smi` says it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
