"""`paretopipe plan profile|predict|devices GRID.yaml`; the same as `python -m pplib plan ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplib.columns import OBJECTIVES, quantity
from pplib.config import Configuration
from pplib.devices import Testbed, load_testbed
from pplib.errors import ParetoPipeError
from pplib.grid import load_grid
from pplib.planner.device_plans import device_plans, reordered
from pplib.planner.prediction import predict_cuts
from pplib.planner.prediction_errors import PredictionError
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.stage_times import StageTimes
from pplib.planner.search.plan_costs import Plan
from pplib.sweep.results import PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

    from pplib.sweep.planning.profiling import Profiled, ProfiledConfiguration

PROFILE = """Measure what each device takes for the units of the model, and each hop for messages. So cuts that nobody
has measured can be predicted. A grid says all that decides it: the model, the batch, the runtimes, the devices, the
backends. What was measured before, and fits, is used again.
"""
PREDICT = """Predict every cut of a grid from profiles of its devices and hops. What is not profiled yet is. Printed is
the predicted front of each configuration, with intervals; and where the grid has been swept, how far the predictions
are off.
"""
DEVICES = """Which of the devices, in which order, and where to cut: the predicted front over all that can be, from
profiles as `predict` has them. The first device of the file has the input, and stays the first. How many devices of the
file may be used says `num_stages` of the grid.
"""
COMMANDS = {"profile": PROFILE, "predict": PREDICT, "devices": DEVICES}


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib") -> int:
    """Run a command. Exit status: 0 when all is profiled, 1 on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog=f"{prog} plan")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        one = commands.add_parser(name, description=what, help=f"GRID.yaml: {what.partition('.')[0].lower()}")
        one.add_argument("grid", type=Path, help="the file of a sweep")
        one.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    try:
        grid = load_grid(options.grid)
        testbeds = {config.devices: load_testbed(config.devices_file) for config in grid.configurations}
        for line in _lines(grid.configurations, testbeds, options.fresh, options.command):
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
    configurations: tuple[Configuration, ...], testbeds: Mapping[str, Testbed], fresh: bool, command: str
) -> Iterator[str]:
    from pplib.sweep.planning.predicting import (
        errors,
        predicted,
    )  # PyTorch, which no mistake has to wait for
    from pplib.sweep.planning.profiling import ProfiledConfiguration, profile_grid

    for one in profile_grid(configurations, testbeds, fresh):
        if not isinstance(one, ProfiledConfiguration):
            yield _line(one)
        elif command == "devices":
            names = testbeds[one.config.devices].names
            yield f"{one.config.identity}: predicted front over all choices and orders of {', '.join(names)}:"
            yield from (f"  {_plan(one, plan, names)}" for plan in device_plans(one.pipeline))
        elif command == "predict":
            table = predicted(one)
            yield f"{one.config.identity}: predicted front: {_front(table)}; {one.config.folder / PREDICTIONS}"
            yield from (f"  against its sweep: {_off(error)}" for error in errors(table, one.config))


def _plan(one: ProfiledConfiguration, plan: Plan, names: Sequence[str]) -> str:
    """A plan with its figures."""
    where = " -> ".join(names[i] for i in plan.devices)
    if len(plan.devices) == 1:
        return f"{where}, all of it: {plan.latency_s * 1e3:.4g} ms, {one.config.batch_size / plan.cycle_s:.4g} img/s"
    (row,) = predict_cuts(reordered(one.pipeline, plan), [plan.points]).to_dict("records")
    return f"{where}: {_figures(row)}"


def _front(table: pd.DataFrame) -> str:
    """The cuts on it, with their figures."""
    front = table[table["predicted_on_front"]].sort_values("predicted_latency_s")
    return "; ".join(_figures(row) for row in front.to_dict("records"))


def _figures(row: Mapping[Hashable, Any]) -> str:
    """A cut, what is predicted of it, and its intervals."""
    figures = []
    for name in OBJECTIVES:
        measure = quantity(name)
        value, low, high = (row[f"predicted_{name}{end}"] * measure.factor for end in ("", "_low", "_high"))
        figures.append(f"{value:.4g} {measure.unit} ({low:.4g} to {high:.4g})")
    return f"{row['partition_label']} {', '.join(figures)}"


def _off(error: PredictionError) -> str:
    label, share = error.worst
    return (
        f"{quantity(error.column).name} of {error.cuts} cuts off by {error.mape:.1%} on average, of which noise would "
        f"be {error.noise:.1%}; worst {label} by {share:+.1%}; {error.inside:.0%} in the 95 % intervals; without a "
        f"common factor of {error.common:.3f} by {error.mape_apart:.1%}"
    )


def _line(one: Profiled) -> str:
    """One profile in a line."""
    profile = one.profile
    again = "kept from before" if one.again else f"took {profile.took_s:.0f} s"
    notes = "".join(f"; {note}" for note in profile.notes)
    if isinstance(profile, DeviceProfile):
        times = StageTimes(profile)
        whole, room = times.at(0, profile.num_units), (profile.room_bytes or 0) / 1e6
        if_it = (
            ""
            if times.fits(0, profile.num_units)
            else f" if its memory had room for more than {room:.0f} MB of weights"
        )
        told = (
            f"{profile.asked['model']} with {profile.asked['runtime']}: {profile.num_units} units, "
            f"whole {whole.seconds * 1e3:.1f} ms{if_it}, rounds +- {times.spread:.1%}, model +- {times.model_sd:.1%}"
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
