"""The same command on the remote devices of a device file, by the code that `setup` brought to them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from pplib import limits
from pplib.devices import load_testbed
from pplib.errors import ConfigError, ParetoPipeError
from pplib.testbed.shipping.our_code import our_code, python_command
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.parallel import for_each


def run_on_devices(file: Path, remove: bool, sure: bool, ask: Callable[[str], bool]) -> int:
    """Show the caches of all remote devices, and empty them with `remove`; the exit status.

    Raises:
        ConfigError: no device of the file is remote.
    """
    machines = [SshDevice(device) for device in load_testbed(file).devices if device.remote]
    if not machines:
        raise ConfigError(f"{file}: all its devices are on this machine: leave --devices out")
    with contextlib.ExitStack() as stack:
        for machine in machines:
            stack.callback(machine.close)
        shown = _tell(machines, ["show"])
        if remove and not shown and (sure or ask("free what no running session uses, on all of them?")):
            return _tell(machines, ["empty", "--yes"])
        return 1 if remove else shown


def _tell(machines: list[SshDevice], words: list[str]) -> int:
    """Run the command on all devices at once and print what each says; 1 where one cannot."""

    def work(machine: SshDevice) -> str:
        machine.open()
        our_code().put_where_missing(machine)
        command = python_command(machine.device, ["-m", "pplib.cache", *words], fallback=True)
        return machine.run(command, timeout_s=limits.CACHE_COMMAND_S, check=True).stdout.rstrip()

    status = 0
    for machine, said in zip(machines, for_each(machines, work, 2 * limits.CACHE_COMMAND_S), strict=True):
        if isinstance(said, ParetoPipeError):
            status = 1
            sys.stderr.write(f"error: {said}\n")
        else:
            sys.stdout.write(f"{machine.name}: {said}\n")
    sys.stdout.flush()
    return status
