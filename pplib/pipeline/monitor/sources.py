"""Where a device's own readings come from: files of the kernel, a Raspberry Pi's firmware, NVML."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pplib import limits
from pplib.errors import ParetoPipeError

SYS = Path("/sys")
Command = Callable[[str], str]


class Unreadable(ParetoPipeError):
    """A source is not there or does not answer; the monitor keeps the reason as a note."""


def read_text(path: Path) -> str:
    """The content of a kernel file, stripped.

    Raises:
        Unreadable: it is not there, or not for this user.
    """
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise Unreadable(f"{path}: {exc.strerror or exc}") from exc


def read_int(path: Path, base: int = 10) -> int:
    """The number in a kernel file.

    Raises:
        Unreadable: no file, or no number in it.
    """
    text = read_text(path)
    try:
        return int(text, base)
    except ValueError:
        raise Unreadable(f"{path}: expected a number, got {text[:40]!r}") from None


def own_cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def swapped_bytes(counters: Path = Path("/proc/vmstat"), page_bytes: int | None = None) -> int:
    """What this machine has read from swap and written to it since it was started.

    Not by psutil, which takes every page for 4 KiB, and counts pages of files on macOS.

    Raises:
        Unreadable: this system has no such counters.
    """
    pages = dict(line.split() for line in read_text(counters).splitlines() if line.startswith("pswp"))
    if not {"pswpin", "pswpout"} <= pages.keys():
        raise Unreadable(f"{counters}: expected pswpin and pswpout, got neither or one")
    return (int(pages["pswpin"]) + int(pages["pswpout"])) * (page_bytes or os.sysconf("SC_PAGE_SIZE"))


def boot_ahead_s() -> float:
    """How far the clock that counts a suspended machine's time is ahead of the one that does not.

    Raises:
        Unreadable: this system has no such clock.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        raise Unreadable("no clock that goes on while the machine is suspended")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def vcgencmd(question: str) -> str:
    """What a Raspberry Pi's firmware answers; costs a process of some milliseconds.

    Raises:
        Unreadable: not a Raspberry Pi, not allowed, or no answer within 2 s.
    """
    program = shutil.which("vcgencmd")
    if program is None:
        raise Unreadable("vcgencmd: not installed")
    try:
        done = subprocess.run(
            [program, question], capture_output=True, text=True, timeout=limits.READING_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unreadable(f"vcgencmd {question}: {exc}") from exc
    if done.returncode:
        raise Unreadable(f"vcgencmd {question}: {(done.stderr or done.stdout).strip()[:120]}")
    return done.stdout


class Gpu(NamedTuple):
    """One GPU as NVML knows it."""

    nvml: Any
    handle: Any
    uuid: str


def open_gpu(torch_device: str, nvml: Any = None, uuid: str | None = None) -> Gpu:
    """The NVML handle of a torch device, found by UUID: torch and NVML may count GPUs differently.

    NVML stays open as long as the process; to open it again is cheap.

    Args:
        torch_device: `cuda` or `cuda:N`.
        nvml: a module like pynvml, for tests.
        uuid: the GPU's, where torch need not be asked.

    Raises:
        Unreadable: no NVML here, or it does not know this GPU.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")  # absent on a Raspberry Pi
        except ImportError as exc:
            raise Unreadable("pynvml: not installed: install nvidia-ml-py") from exc
    try:
        nvml.nvmlInit()
        if uuid is None:
            import torch

            uuid = str(torch.cuda.get_device_properties(torch_device).uuid)
            uuid = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid), uuid)
    except (nvml.NVMLError, RuntimeError, AssertionError) as exc:
        raise Unreadable(f"nvml: {exc}") from exc
