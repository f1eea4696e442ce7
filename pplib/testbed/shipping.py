"""What a device needs of ours: the code, the Python that runs it, and where both lie."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pplib.devices import Device
from pplib.testbed.bundle import HASH_HERE, Bundle
from pplib.testbed.ssh import SshDevice, shell_path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pplib", "workers")
FOLDER = "~/.paretopipe"
VENV = f"{FOLDER}/venv"
REQUIREMENTS = ROOT / "requirements-pi.txt"


@functools.cache
def our_code() -> Bundle:
    """Our source files, as this process found them first."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.is_file()]
    return Bundle(f"{FOLDER}/code", {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths})


def python_path(device: Device) -> str:
    """The interpreter of a remote device, or the virtual environment that holds it; may begin with `~/`."""
    return device.python or f"{VENV}/bin/python"


def find_python(device: Device, fallback: bool = False) -> str:
    """Shell text that sets $python to the interpreter of a remote device, with `fallback` to any there is."""
    text = f'python={shell_path(python_path(device))}; [ -d "$python" ] && python=$python/bin/python'
    return f'{text}; [ -x "$python" ] || python=python3' if fallback else text


def python_command(
    device: Device, arguments: Sequence[str], fallback: bool = False, bundles: Sequence[Bundle] = ()
) -> list[str]:
    """The words that run the Python of a remote device, where it finds our code; use with `SshDevice.run`.

    Args:
        device: a remote one.
        arguments: of Python.
        fallback: whether any Python will do where the device's own is missing.
        bundles: more code for it to find.
    """
    path = ":".join(shell_path(bundle.folder) for bundle in (our_code(), *bundles))
    script = f'{find_python(device, fallback)}; PYTHONPATH={path} exec "$python" "$@"'
    return ["sh", "-c", script, "python", *arguments]


class Status(msgspec.Struct, frozen=True):
    """What a device has of ours.

    Attributes:
        python: the interpreter of its workers; empty where there is none.
        code: the content hash of what lies where our code belongs; empty where there is nothing.
        installed: whether the environment that `setup` makes once got these requirements.
        ready: whether `setup` once ended well with this interpreter, code and requirements.
    """

    python: str
    code: str
    installed: bool
    ready: bool

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to set up."""
        return self.ready and bool(self.python) and self.code == our_code().hash


def installed_mark(requirements: Path) -> str:
    """The name of the file in the environment that says that these requirements were installed."""
    return f"installed-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:32]}"


def stamp_of(device: Device, requirements: Path) -> str:
    """The file on a device that says that it was set up with this interpreter, these requirements and this code."""
    wanted = [our_code().hash, python_path(device), "" if device.python else requirements.read_text()]
    return f"{FOLDER}/ready/{hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:32]}"


def status_of(machine: SshDevice, requirements: Path = REQUIREMENTS) -> Status:
    """Ask a device what it has, in one round trip.

    Raises:
        TransportError: it cannot be asked.
    """
    script = f"""{find_python(machine.device)}; [ -x "$python" ] && echo "python=$python"
[ -e {shell_path(f"{VENV}/{installed_mark(requirements)}")} ] && echo installed=yes
[ -e {shell_path(stamp_of(machine.device, requirements))} ] && echo ready=yes
cd {shell_path(our_code().folder)} 2>/dev/null && echo "code=$({HASH_HERE})"
true"""
    lines = machine.run(["sh", "-c", script], check=True).stdout.splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    return Status(said.get("python", ""), said.get("code", ""), "installed" in said, "ready" in said)
