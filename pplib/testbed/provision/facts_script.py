"""Facts about a machine as JSON. Its text is sent to a device and run by any Python there, with nothing installed.

Reads a request, one line of JSON, from its standard input.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import struct
import sys
from pathlib import Path

_SIOCGIFCONF = 0x8912


def addresses() -> list[tuple[str, str]]:
    """Interface and IPv4 address, for each address of this machine."""
    room = array.array("B", bytes(40 * 256))
    size = 40 if struct.calcsize("P") == 8 else 32
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(room), room.buffer_info()[0])
        used = struct.unpack("iP", fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, request))[0]
    found = []
    for start in range(0, used, size):
        entry = room[start : start + size].tobytes()
        name = entry[:16].split(b"\0")[0].decode(errors="replace").partition(":")[0]
        found.append((name, socket.inet_ntoa(entry[20:24])))
    return found


def module(name: str) -> dict[str, str]:
    """The version of a module, imported for real, or why it cannot be."""
    try:
        return {"version": str(getattr(importlib.import_module(name), "__version__", "?")), "error": ""}
    except Exception as exc:  # noqa: BLE001 (a broken build raises what it likes, and that is a fact)
        return {"version": "", "error": f"{type(exc).__name__}: {exc}"[:500]}


def runtimes(packages: dict[str, list[str]]) -> dict[str, str]:
    """The versions of those runtimes of which one of these packages is installed."""
    found: dict[str, str] = {}
    for name, any_of in packages.items():
        for package in any_of:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(name, importlib.metadata.version(package))
    return found


def gpu(torch_device: str) -> dict[str, str]:
    """The name of the GPU that `torch_device` means, or why it cannot be used; empty for the CPU."""
    if torch_device == "cpu":
        return {"name": "", "error": ""}
    try:
        torch = importlib.import_module("torch")
        torch.zeros(1, device=torch_device)
        return {"name": str(torch.cuda.get_device_name(torch_device)), "error": ""}
    except Exception as exc:  # noqa: BLE001 (as above)
        return {"name": "", "error": f"{type(exc).__name__}: {exc}".splitlines()[0][:300]}


def memory() -> tuple[int, int]:
    """Bytes of memory: all, and available."""
    values = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(values["MemTotal"].split()[0]) * 1024, int(values["MemAvailable"].split()[0]) * 1024


def main() -> None:
    """Answer a request: `torch_device`, the one that the worker will use; `runtimes`, which packages bring each."""
    request = json.loads(sys.stdin.readline())
    total, available = memory()
    facts = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "torch": module("torch"),
        "torchvision": module("torchvision"),
        "gpu": gpu(request["torch_device"]),
        "runtimes": runtimes(request["runtimes"]),
        "cores": sorted(os.sched_getaffinity(0)),
        "memory_bytes": total,
        "available_bytes": available,
        "free_disk_bytes": shutil.disk_usage(os.environ.get("HOME", "/")).free,
        "addresses": addresses(),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
