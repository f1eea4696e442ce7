"""`paretopipe plan profile GRID.yaml`; the same as `python -m pplib plan profile GRID.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pplib.devices import load_testbed
from pplib.errors import ParetoPipeError
from pplib.grid import load_grid
from pplib.planner.device_profile import DeviceProfile
from pplib.planner.stage_times import StageTimes

if TYPE_CHECKING:
    from pplib.plan.profiling import Profiled

DESCRIPTION = """Measure what each device takes for the units of the model, and each hop for messages, so that cuts
nobody has measured can be predicted. A grid says all that decides it: the model, the batch, the runtimes, the devices,
the backends. What was measured before, and fits, is used again.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib") -> int:
    """Run a command. Exit status: 0 when all is profiled, 1 on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog=f"{prog} plan")
    commands = parser.add_subparsers(dest="command", required=True)
    profile = commands.add_parser("profile", description=DESCRIPTION, help="GRID.yaml: profile its devices and hops")
    profile.add_argument("grid", type=Path, help="the file of a sweep")
    profile.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    try:
        grid = load_grid(options.grid)
        testbeds = {config.devices: load_testbed(config.devices_file) for config in grid.configurations}
        from pplib.plan.profiling import profile_grid  # it loads PyTorch, which no mistake has to wait for

        for one in profile_grid(grid.configurations, testbeds, options.fresh):
            sys.stdout.write(f"{_line(one)}\n")
            sys.stdout.flush()
    except ParetoPipeError as exc:
        sys.stderr.write(f"\nerror: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: profiles that were told are kept\n")
        return 130
    return 0


def _line(one: Profiled) -> str:
    """One profile in a line."""
    profile = one.profile
    again = "kept from before" if one.again else f"took {profile.took_s:.0f} s"
    notes = "".join(f"; {note}" for note in profile.notes)
    if isinstance(profile, DeviceProfile):
        times = StageTimes(profile)
        whole = times.at(0, profile.num_units)
        told = (
            f"{profile.asked['model']} with {profile.asked['runtime']}: {profile.num_units} units, "
            f"whole {whole.seconds * 1e3:.1f} ms, rounds +- {times.spread:.1%}, model +- {times.model_sd:.1%}"
        )
    else:
        lines = {"transfer": profile.transfer, "encode": profile.encode, "decode": profile.decode}
        told = f"{profile.asked['backend']}, {profile.asked['wire']}: " + ", ".join(
            f"{name} {line.fixed_s * 1e3:.2f} ms + {line.per_byte_s * 1e9:.2f} ns/byte +- {line.log_sd:.0%}"
            for name, line in lines.items()
            if line is not None
        )
    return f"{profile.name}: {told}; {again}{notes}; {one.path}"


if __name__ == "__main__":
    sys.exit(main())
