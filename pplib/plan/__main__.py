"""`paretopipe plan profile|predict GRID.yaml`; the same as `python -m pplib plan ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pplib.columns import OBJECTIVES, quantity
from pplib.config import Configuration
from pplib.devices import Testbed, load_testbed
from pplib.errors import ParetoPipeError
from pplib.grid import load_grid
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.stage_times import StageTimes

if TYPE_CHECKING:
    import pandas as pd

    from pplib.plan.predicting import Error
    from pplib.plan.profiling import Profiled

PROFILE = """Measure what each device takes for the units of the model, and each hop for messages. So cuts that nobody
has measured can be predicted. A grid says all that decides it: the model, the batch, the runtimes, the devices, the
backends. What was measured before, and fits, is used again.
"""
PREDICT = """Predict every cut of a grid from profiles of its devices and hops. What is not profiled yet is. Printed is
the predicted front of each configuration, with intervals; and where the grid has been swept, how far the predictions
are off.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib") -> int:
    """Run a command. Exit status: 0 when all is profiled, 1 on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog=f"{prog} plan")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("profile", PROFILE), ("predict", PREDICT)):
        one = commands.add_parser(name, description=what, help=f"GRID.yaml: {what.partition('.')[0].lower()}")
        one.add_argument("grid", type=Path, help="the file of a sweep")
        one.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    try:
        grid = load_grid(options.grid)
        testbeds = {config.devices: load_testbed(config.devices_file) for config in grid.configurations}
        for line in _lines(grid.configurations, testbeds, options.fresh, options.command == "predict"):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except ParetoPipeError as exc:
        sys.stderr.write(f"\nerror: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: profiles that were told are kept\n")
        return 130
    return 0


def _lines(
    configurations: tuple[Configuration, ...], testbeds: Mapping[str, Testbed], fresh: bool, predict: bool
) -> Iterator[str]:
    from pplib.plan.predicting import errors, keep_predictions, predicted  # PyTorch, which no mistake has to wait for
    from pplib.plan.profiling import ProfiledConfiguration, profile_grid

    tables = []
    for one in profile_grid(configurations, testbeds, fresh):
        if not isinstance(one, ProfiledConfiguration):
            yield _line(one)
        elif predict:
            tables.append(predicted(one))
            yield f"{one.config.identity}: predicted front: {_front(tables[-1])}"
            yield from (f"  against its sweep: {_off(error)}" for error in errors(tables[-1], one.config))
    if tables:
        yield str(keep_predictions(tables, configurations[0]))


def _front(table: pd.DataFrame) -> str:
    """The cuts on it, with their figures."""
    told = []
    for row in table[table["predicted_on_front"]].sort_values("predicted_latency_s").to_dict("records"):
        figures = []
        for name in OBJECTIVES:
            measure = quantity(name)
            value, low, high = (row[f"predicted_{name}{end}"] * measure.factor for end in ("", "_low", "_high"))
            figures.append(f"{value:.4g} {measure.unit} ({low:.4g} to {high:.4g})")
        told.append(f"{row['partition_label']} {', '.join(figures)}")
    return "; ".join(told)


def _off(error: Error) -> str:
    label, share = error.worst
    return (
        f"{quantity(error.column).name} of {error.cuts} cuts off by {error.mape:.1%} on average, worst {label} by "
        f"{share:+.1%}, {error.inside:.0%} in the 95 % intervals; without a common factor of {error.common:.3f} by "
        f"{error.mape_apart:.1%}, {error.inside_apart:.0%} in them"
    )


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
