"""A machine to run commands on: a device over SSH, or this one, in the same words."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from pplib import limits
from pplib.devices import Device
from pplib.testbed.ssh.command import CommandError, Completed
from pplib.testbed.ssh.device import SshDevice


class Machine(Protocol):
    """What can be done on a machine, whichever it is; `SshDevice` says what each means and raises."""

    device: Device
    name: str

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def run(
        self, command: Sequence[str], *, stdin: bytes = b"", timeout_s: float = limits.SSH_RUN_S, check: bool = False
    ) -> Completed:
        """Run a command to its end."""

    def as_root(self, command: Sequence[str]) -> Completed:
        """Run a command as root; never raises."""


class ThisMachine:
    """The machine that this process runs on."""

    def __init__(self, device: Device) -> None:
        self.device, self.name = device, device.name

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def run(
        self, command: Sequence[str], *, stdin: bytes = b"", timeout_s: float = limits.SSH_RUN_S, check: bool = False
    ) -> Completed:
        """Run a command to its end.

        Raises:
            CommandError: it took too long, cannot be started or, with `check`, failed.
        """
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                env={**os.environ, "PATH": path},
            )
        except subprocess.TimeoutExpired as exc:
            raise CommandError(f"{self.name}: `{command[0]}` did not end within {timeout_s:.0f} s") from exc
        except OSError as exc:
            raise CommandError(f"{self.name}: `{command[0]}` cannot be started: {exc}") from exc
        if check and done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-1000:]
            raise CommandError(f"{self.name}: `{command[0]}` failed (exit status {done.returncode}): {said}")
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def as_root(self, command: Sequence[str]) -> Completed:
        """Run a command as root, through `sudo -n` where this user is not root; never raises."""
        if os.geteuid() != 0 and shutil.which("sudo") is None:
            return Completed(126, "", "Operation not permitted: this user is not root, and there is no sudo")
        try:
            return self.run([*([] if os.geteuid() == 0 else ["sudo", "-n", "--"]), *command])
        except CommandError as exc:
            return Completed(127, "", str(exc))


def machine_of(device: Device) -> Machine:
    """The machine a device file means, not yet connected."""
    return SshDevice(device) if device.remote else ThisMachine(device)
