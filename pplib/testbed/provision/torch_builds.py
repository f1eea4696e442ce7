"""Which build of PyTorch a device gets, by what is found there; needs nothing but Python's own library.

As a program it prints pip's constraints for the machine that it runs on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Prints what a choice depends on, as name=value; needs a shell only. LONG_BIT is that of the programs: a 64-bit
# kernel under a 32-bit system says aarch64 all the same.
SURVEY = r"""echo "machine=$(uname -m)"
echo "bits=$(getconf LONG_BIT 2> /dev/null)"
echo "glibc=$(getconf GNU_LIBC_VERSION 2> /dev/null)"
for file in /dev/nvidiactl /dev/nvhost-gpu /dev/nvgpu/igpu0/ctrl; do [ -e "$file" ] && echo cuda=yes && break; done
sed -n 's/^MemTotal: *\([0-9]*\) kB/memory_kb=\1/p' /proc/meminfo 2> /dev/null
python3 2> /dev/null -c 'import sys; print("python3=%d.%d" % sys.version_info[:2])
import ensurepip, venv; print("venv=yes")'
"""


@dataclass(frozen=True)
class System:
    """What `SURVEY` found; 0 or empty where it cannot be told."""

    machine: str = ""
    bits: int = 0
    glibc: tuple[int, ...] = ()
    cuda: bool = False
    memory_bytes: int = 0
    python3: tuple[int, ...] = ()
    venv: bool = False

    @classmethod
    def of(cls, said: dict[str, str]) -> System:
        """From the lines of `SURVEY`."""
        return cls(
            machine=said.get("machine", ""),
            bits=int(said.get("bits") or 0),
            glibc=_version(said.get("glibc", "")),
            cuda="cuda" in said,
            memory_bytes=int(said.get("memory_kb") or 0) * 1024,
            python3=_version(said.get("python3", "")),
            venv="venv" in said,
        )


@dataclass(frozen=True)
class Build:
    """A build of PyTorch that is known to run on a kind of device.

    Attributes:
        torch, torchvision: the versions; empty: what the requirements allow.
        room_bytes: what installing takes at its height, the downloads included.
        pythons: the first and the last version of Python that it is built for.
        why: the reason for this one.
    """

    torch: str
    torchvision: str
    room_bytes: float
    pythons: tuple[tuple[int, int], tuple[int, int]]
    why: str

    @property
    def constraints(self) -> list[str]:
        """The lines of a pip constraints file."""
        pairs = (("torch", self.torch), ("torchvision", self.torchvision))
        return [f"{name}=={version}" for name, version in pairs if version]


# The table of known-good versions. torch 2.9.1 is the last whose ordinary arm64 build is for the CPU alone (104 MB);
# from 2.10 on it brings all of CUDA (3 GB), and 2.10.0 dies by SIGILL on the Cortex-A53 and A72 of a Pi 3 and 4
# (pytorch issue 176993).
ARM64_CPU = Build("2.9.1", "0.24.1", 2e9, ((3, 10), (3, 14)), "the last arm64 build without CUDA; runs on a Pi 3, 4, 5")
ANY = Build("", "", 10e9, ((3, 11), (3, 99)), "brings CUDA, with or without a GPU: the ordinary index has no other")
NO_TORCH = Build("", "", 0, ((3, 11), (3, 99)), "")
MIN_GLIBC = (2, 28)


def choose(systems: Sequence[System], wanted: str = "", wanted_vision: str = "") -> list[Build]:
    """A build for each of some devices: the same version on all where they can have it, as rpc and gloo need it.

    Args:
        systems: the devices that get an environment.
        wanted, wanted_vision: the versions that the other devices of the pipeline have, empty where that is open;
            what is no release is not asked for.
    """
    small = any(_is_arm_cpu(system) for system in systems)
    if small:
        wanted, wanted_vision = ARM64_CPU.torch, ARM64_CPU.torchvision
    if not all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in (wanted, wanted_vision)):
        wanted, wanted_vision = "", ""
    why = f"{ANY.why}; {wanted or 'any version'}, as the other devices"
    other = Build(wanted, wanted_vision, ANY.room_bytes, ANY.pythons, why)
    arm_cuda = ANY if small else other  # 2.9.1 has no CUDA on arm64
    return [ARM64_CPU if _is_arm_cpu(one) else arm_cuda if one.machine == "aarch64" else other for one in systems]


def unfit(system: System, build: Build) -> str:
    """Why there can be no such environment on a device and what to do; empty where there can."""
    if system.bits == 32 or system.machine in ("armv6l", "armv7l", "i686"):
        return (
            f"its system is a 32-bit one ({system.machine}), for which there is no PyTorch and no ONNX Runtime: write "
            "the 64-bit Raspberry Pi OS to its card"
        )
    if not system.python3:
        return "there is no Python: `sudo apt install python3 python3-venv` there"
    found = ".".join(map(str, system.python3))
    if system.python3 < (3, 11):
        return f"expected Python 3.11 or newer, got {found}: Raspberry Pi OS 12 has 3.11, and 13 has 3.13"
    if not system.venv:
        return f"it cannot make environments: `sudo apt install python3-venv` there (or python{found}-venv)"
    if system.glibc and system.glibc < MIN_GLIBC:
        found = ".".join(map(str, system.glibc))
        return f"its C library is {found}, PyTorch and ONNX Runtime need 2.28 or newer: install a newer system"
    last = build.pythons[1]
    if system.python3 > last:
        return (
            f"torch {build.torch}, {build.why}, has no build for Python {found}: set `python` to an environment with "
            f"Python 3.11 to {last[0]}.{last[1]}"
        )
    return ""


def _is_arm_cpu(system: System) -> bool:
    return system.machine == "aarch64" and not system.cuda


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def survey_lines(text: str) -> dict[str, str]:
    """Lines of the form name=value."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def main() -> None:
    """Print the constraints for this machine."""
    done = subprocess.run(["sh", "-c", SURVEY], capture_output=True, text=True, timeout=60, check=False)
    build = choose([System.of(survey_lines(done.stdout))])[0]
    sys.stdout.write("".join(f"{line}\n" for line in build.constraints))


if __name__ == "__main__":
    main()
