"""`paretopipe check FILE` and `paretopipe setup FILE`; the same as `python -m pplib.devices ...`."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pplib.devices import Testbed
from pplib.errors import ParetoPipeError
from pplib.testbed.provision.check import check
from pplib.testbed.provision.needs import Needs, read_needs
from pplib.testbed.provision.setup import set_up

FILE = "a device file, such as params/devices/pi-pi.yaml, or the grid of a sweep: then each device gets what that needs"


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib.devices") -> int:
    """Check or set up the devices of a file; the exit status is 1 if something required fails."""
    parser = argparse.ArgumentParser(prog=prog, description="The devices of a device file.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "look at every device and the links between them, and say what to do about what is not well"),
        ("setup", "bring every device from a fresh system to one that can run a worker"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file", type=Path, help=FILE)
    options = parser.parse_args(arguments)
    try:
        statuses = [
            _check(testbed, needs) if options.command == "check" else _set_up(testbed, needs)
            for testbed, needs in read_needs(options.file)
        ]
    except ParetoPipeError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: start it again to do the rest\n")
        return 130
    return max(statuses)


def _check(testbed: Testbed, needs: Mapping[str, Needs]) -> int:
    report = check(testbed, needs)
    _write(str(report))
    return 0 if report.ok else 1


def _set_up(testbed: Testbed, needs: Mapping[str, Needs]) -> int:
    failed = False
    for name, outcome in set_up(testbed, _write, needs).items():
        if isinstance(outcome, ParetoPipeError):
            failed = True
            sys.stderr.write(f"{outcome}\n")
        else:
            _write(f"{name}: {outcome}")
    return 1 if failed else 0


_writing = threading.Lock()


def _write(text: str) -> None:
    with _writing:  # devices report side by side
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
