"""From a fresh Raspberry Pi OS to a device that can run a worker; the second time there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pplib.devices import Testbed
from pplib.errors import ParetoPipeError
from pplib.testbed.parallel import for_each
from pplib.testbed.shipping import (
    FOLDER,
    REQUIREMENTS,
    VENV,
    installed_mark,
    our_code,
    python_command,
    stamp_of,
    status_of,
)
from pplib.testbed.ssh import CommandError, SshDevice, shell_path

INSTALL_S = 3600.0  # PyTorch is large, and a Pi's card is slow
IMPORT_S = 180.0
BUSY = 75

_VENV = r"""set -e
python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got " + sys.version)'
[ -x "$1/bin/python" ] || python3 -m venv "$1"
"$1/bin/python" -m pip install --disable-pip-version-check --no-input --quiet -r "$2"
: > "$1/$3"
"""


def set_up(
    testbed: Testbed,
    say: Callable[[str], None] = lambda line: None,
    requirements: Path = REQUIREMENTS,
    limit_s: float = 2 * INSTALL_S,
) -> dict[str, str | ParetoPipeError]:
    """Set up every remote device, all at the same time.

    A device without `python` in the device file gets a virtual environment of its own under
    `~/.paretopipe`, with `requirements` installed by pip; one with `python` is only looked at. Each
    gets our code under its content hash. A device that has all this costs one round trip.

    Args:
        testbed: the devices; those on this machine need nothing.
        say: is called with a line of text whenever something takes its time, from several threads.
        requirements: what pip installs.
        limit_s: how long all devices together may take.

    Returns:
        What was done, by device; or the error that ended it, which says what to do.
    """
    found: dict[str, str | ParetoPipeError] = {
        device.name: "this machine: nothing to set up" for device in testbed.devices if not device.remote
    }
    remote = [SshDevice(device) for device in testbed.devices if device.remote]
    try:
        done = for_each(remote, lambda machine: _set_up(machine, say, requirements), limit_s)
    finally:
        for_each(remote, lambda machine: machine.close(), 5.0)
    found.update(zip([machine.name for machine in remote], done, strict=True))
    return {device.name: found[device.name] for device in testbed.devices}


def _set_up(machine: SshDevice, say: Callable[[str], None], requirements: Path) -> str:
    device, done = machine.device, []
    status = status_of(machine, requirements)
    if status.complete:
        return "ready: nothing to do"
    if device.python is None:
        if not (status.installed and status.python):
            say(f"{machine.name}: installing {requirements.name}: PyTorch is large, minutes the first time")
            _install(machine, requirements)
            done.append(f"{requirements.name} installed")
    elif not status.python:
        raise CommandError(
            f"{machine.name}: there is no {device.python}: correct `python` in the device file, or leave it out to "
            "have an environment made"
        )
    if status.code != our_code().hash:
        done.append(f"code shipped ({our_code().put_on(machine) / 1e3:.0f} kB)")
    say(f"{machine.name}: importing it all")
    done.append(_verify(machine))
    machine.put(b"", stamp_of(device, requirements))
    return "ready: " + ", ".join(done)


def _install(machine: SshDevice, requirements: Path) -> None:
    """The virtual environment and what belongs into it; one `setup` at a time."""
    listed = f"{FOLDER}/requirements.txt"
    machine.put(requirements, listed)
    lock = shell_path(f"{FOLDER}/lock")
    words = f"{shell_path(VENV)} {shell_path(listed)} {installed_mark(requirements)}"
    script = f'exec flock -n -E {BUSY} {lock} sh -c "$1" sh {words}'
    done = machine.run(["sh", "-c", script, "sh", _VENV], timeout_s=INSTALL_S)
    said = " ".join((done.stderr or done.stdout).split())[-1500:]
    if done.returncode == BUSY:
        raise CommandError(f"{machine.name}: another `setup` is installing there: wait for it")
    if "ensurepip is not available" in done.stdout + done.stderr or "No module named venv" in said:
        raise CommandError(f"{machine.name}: it cannot make environments: `sudo apt install python3-venv` there")
    if done.returncode:
        raise CommandError(f"{machine.name}: the environment could not be made (exit status {done.returncode}): {said}")


def _verify(machine: SshDevice) -> str:
    """Import what a worker imports, from where a worker finds it."""
    text = (
        "import torch, torchvision, pplib.runtime.worker as worker; "
        "print(worker.__file__, torch.__version__, torchvision.__version__)"
    )
    done = machine.run(python_command(machine.device, ["-c", text]), timeout_s=IMPORT_S)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        hint = (
            ""
            if machine.device.python is None
            else (f": install what requirements-pi.txt lists into {machine.device.python}")
        )
        raise CommandError(f"{machine.name}: what a worker needs cannot be imported: {last}{hint}")
    file, torch, torchvision = done.stdout.split()
    if our_code().hash not in file:
        raise CommandError(
            f"{machine.name}: pplib is imported from {file}, not from {our_code().folder}: remove it there"
        )
    return f"torch {torch}, torchvision {torchvision}"
