"""What a machine is: the facts a record needs to be compared with another one's."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import runpy
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil

from pplib import ROOT, __version__
from pplib.errors import WorkerError

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, and of arm64
_FIRST_GPU = (8, 0)  # Ampere


@functools.cache
def boot_id() -> str:
    """Equal for processes that share CLOCK_MONOTONIC; unique to this process where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"process-{uuid.uuid4()}"


def describe_host(torch_device: str, threads: int) -> dict[str, str | int | float]:
    """CPU, memory, versions, cores of this process, and how TCP finds its pace where it runs.

    Args:
        torch_device: as in the device file.
        threads: inside one operation of a stage.
    """
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "logical_cpus": psutil.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch_version() or "none",
        "pplib": __version__,
        "threads": threads,
        "cores": _cores(),
        "torch_device": torch_device,
        "congestion_control": _congestion_control(),
    }
    if torch_device != "cpu":
        facts["gpu"] = gpu_name(torch_device)
    return facts


@functools.cache
def torch_version() -> str:
    """The version of PyTorch, which need not be loaded for it; empty where it is not installed."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    return str(runpy.run_path(str(Path(found.origin).with_name("version.py")))["__version__"])


def _cuda() -> Any:
    """PyTorch's words for GPUs.

    Raises:
        WorkerError: it is not installed.
    """
    try:
        import torch.cuda
    except ModuleNotFoundError as exc:
        raise WorkerError("a GPU is found by PyTorch, which is not installed here: install it, or use cpu") from exc
    return torch.cuda


def gpu_name(torch_device: str, cuda: Any = None) -> str:
    """The name of the GPU that `cuda` or `cuda:N` means.

    Args:
        torch_device: as in the device file.
        cuda: a module like torch.cuda, for tests.

    Raises:
        WorkerError: there is no such GPU.
    """
    cuda = cuda or _cuda()
    count = cuda.device_count() if cuda.is_available() else 0
    index = int(torch_device.partition(":")[2] or 0)
    if index < count:
        return str(cuda.get_device_name(index))
    seen = ", ".join(f"cuda:{i} ({cuda.get_device_name(i)})" for i in range(count))
    advice = f"choose {seen}, or cpu" if count else "it needs a build with CUDA, and NVIDIA's driver; or use cpu"
    raise WorkerError(
        f"torch_device {torch_device}: no such GPU: PyTorch {torch_version()} sees {count or 'no'} CUDA "
        f"device{'' if count == 1 else 's'}: {advice}"
    )


def no_bfloat16(torch_device: str, cpuinfo: Path = Path("/proc/cpuinfo"), cuda: Any = None) -> str:
    """Why a device would emulate arithmetic in bfloat16; empty where its processor has it.

    Args:
        torch_device: as in the device file.
        cpuinfo: what Linux tells of processors.
        cuda: a module like torch.cuda, for tests.
    """
    if torch_device != "cpu":
        capability = (cuda or _cuda()).get_device_capability(torch_device)
        return "" if capability >= _FIRST_GPU else f"a GPU of compute capability {capability}, expected {_FIRST_GPU}"
    try:
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))]
    except OSError:
        return "this system does not tell what its processor has"
    has = set(lines[0].partition(":")[2].split()) if lines else set[str]()
    return "" if has & set(_BFLOAT16) else f"its processor has none of {', '.join(_BFLOAT16)}"


@functools.cache
def git_commit() -> str:
    """The commit of the checkout this package runs from, `-dirty` when it was changed; "" outside git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _congestion_control() -> str:
    """The algorithm that a new connection of this process has: cubic, bbr, ...; unknown where the system does not tell.

    Over a link with a delay it decides how long a message of less than rate x round trip takes.
    """
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        return "unknown"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        return one.getsockopt(socket.IPPROTO_TCP, option, 16).rstrip(b"\0").decode()


def _cores() -> str:
    if not hasattr(os, "sched_getaffinity"):
        return "any"
    return ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))


def _cpu_model() -> str:
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        if not key:
            return text.rstrip("\0")
        for line in text.splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or sys.platform
