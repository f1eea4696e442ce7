"""The one command: `paretopipe sweep`, `plan`, `check`, `setup` and so on; the same as `python -m pplib ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from pplib.errors import nearest

# Of each command: where it is, what goes before its arguments there, and what it does. Nothing is imported for another.
COMMANDS = {
    "sweep": ("pplib.sweep.job.command", [], "GRID.yaml: measure what a grid has not yet, and write its report"),
    "check": ("pplib.devices.__main__", ["check"], "DEVICES.yaml: what is wrong with the devices, and what to do"),
    "setup": ("pplib.devices.__main__", ["setup"], "DEVICES.yaml: bring devices from a fresh system to ready"),
    "plan": (
        "pplib.sweep.planning.command",
        [],
        "predict GRID.yaml: what every cut would do, by profiles of devices and hops",
    ),
    "compare": ("pplib.compare.__main__", [], "RUN RUN [...]: results side by side: does one confirm the other?"),
    "trace": ("pplib.view.trace", [], "TRIAL.json: a trial's timeline as a file that Perfetto opens"),
    "cache": ("pplib.cache.__main__", ["show"], "[--devices DEVICES.yaml]: the weights that are kept, here or there"),
    "clean": ("pplib.cache.__main__", ["empty"], "[--devices DEVICES.yaml]: say what would be freed, ask, and free it"),
    "lab": ("pplib.view.lab", [], "JupyterLab, at an index of the notebooks"),
}


def usage() -> str:
    """What `paretopipe --help` says."""
    lines = [f"  {name:7} {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: paretopipe COMMAND [ARGUMENTS]",
            "",
            "Measure every cut of a neural network over real devices: where to cut, for latency and for throughput.",
            "",
            *lines,
            "",
            "paretopipe COMMAND --help says more of one.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status, or 2 where there is no such command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(usage() + "\n")
        return 0
    if not words or words[0] not in COMMANDS:
        said = f"unknown command {words[0]!r}; {nearest(words[0], COMMANDS)}" if words else "expected a command"
        sys.stderr.write(f"{usage()}\n\nerror: {said}\n")
        return 2
    module, before, _ = COMMANDS[words[0]]
    return int(importlib.import_module(module).main([*before, *words[1:]], prog="paretopipe") or 0)


if __name__ == "__main__":
    sys.exit(main())
