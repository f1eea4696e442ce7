"""What a device needs of ours: the code, the Python that runs it, and where both lie."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pplib import ROOT
from pplib.devices import Device
from pplib.testbed.shipping.bundle import Bundle
from pplib.testbed.ssh.command import shell_path

PACKAGES = ("pplib", "workers")
FOLDER = "~/.paretopipe"
VENV = f"{FOLDER}/venv"


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


def python_command(device: Device, arguments: Sequence[str], fallback: bool = False) -> list[str]:
    """The words that run the Python of a remote device, where it finds our code; use with `SshDevice.run`.

    Args:
        device: a remote one.
        arguments: of Python.
        fallback: whether any Python will do where the device's own is missing.
    """
    script = f'{find_python(device, fallback)}; PYTHONPATH={shell_path(our_code().folder)} exec "$python" "$@"'
    return ["sh", "-c", script, "python", *arguments]
