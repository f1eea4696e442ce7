"""How far profiles are from trials: two emulated devices, one slower, profiled; then every cut measured, in turns.

    python -m benchmarks.profile_error [--model mobilenet_v2] [--runtime eager] [--slowdowns 1 3] [--repeats 4]

Printed is, for the stages of each device and for the hop: the mean absolute error of the profile against the median of
a cut's trials; what of it is one factor common to all cuts (the device was faster or slower as a whole while one of the
two was measured), and what is left without; what sums of units alone would have given; how far such a median is from
another of as many trials by its repeats' own noise; and how many of the cuts lie in the profile's 95 % intervals, which
the noise of the medians widens. Medians of cuts are freed of how fast the machine was in each repeat.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest import mock

import msgspec
import numpy as np

from pplib.config import Configuration, configuration
from pplib.devices import Device, Testbed
from pplib.links import UNSHAPED, LinkRecord
from pplib.planner.profiles.device_profile import DeviceProfile, levels
from pplib.planner.profiles.hop_profile import HopProfile
from pplib.planner.profiles.stage_times import StageTimes
from pplib.sweep.experiment import Experiment, prepare, proven
from pplib.sweep.measuring.schedule import Trial
from pplib.sweep.measuring.trial import provide, run_trial
from pplib.sweep.planning import profiling
from pplib.sweep.progress import Told
from pplib.testbed.session import workers_up

Metrics = dict[str, float | str | None]


def profiled(config: Configuration, testbed: Testbed) -> list[DeviceProfile | HopProfile]:
    """Profiles of the devices and their hop, measured now."""
    with tempfile.TemporaryDirectory() as folder:
        here = msgspec.structs.replace(config, output_dir=folder)
        found = []
        for one in profiling.profile_grid((here,), {config.devices: testbed}):
            print(f"{one.profile.name}: {one.profile.took_s:.0f} s", *one.profile.notes, flush=True)
            found.append(one.profile)
    return found


def trials(experiment: Experiment, testbed: Testbed, repeats: int) -> list[dict[int, Metrics]]:
    """Of every repeat, what each cut was measured to be."""
    draw, link = random.Random(0), LinkRecord(profile=UNSHAPED, engine="none", tunnel="none", before=[])
    found = []
    with workers_up(testbed, ["socket"]) as session, session.pipeline(2) as coordinator:
        provide(experiment, coordinator)
        for repeat in range(repeats):
            found.append(dict[int, Metrics]())
            for points in draw.sample(experiment.points, len(experiment.points)):
                record, error = run_trial(experiment, coordinator, Trial(points, repeat, 0), link)
                if error:
                    raise error
                found[-1][points[0]] = record.metrics
    return found


def told(
    what: str,
    measured: Sequence[dict[int, Metrics]],
    column: str,
    cuts: Sequence[int],
    predicted: Callable[[int], tuple[float, float]],
    summed: Callable[[int], float] | None = None,
) -> str:
    """One line."""
    level, _, spread = levels([[float(one[cut][column] or 0.0) for one in measured] for cut in cuts])
    noise = 1.2533 * spread / np.sqrt(len(measured))
    seconds, log_sd = np.array([predicted(cut) for cut in cuts]).T
    off = np.log(seconds / level)
    common = float(np.median(off))
    inside = np.abs(off) < 1.96 * np.hypot(log_sd, noise)
    inside_common = np.abs(off - common) < 1.96 * np.hypot(log_sd, noise)
    sums = "" if summed is None else f", sums alone {_mape(np.log([summed(cut) for cut in cuts] / level)):.1%}"
    return (
        f"{what}: MAPE {_mape(off):.1%}{sums}; common factor {np.exp(common):.3f}, without {_mape(off - common):.1%}; "
        f"noise of a trial {spread:.1%}, of a median {noise:.1%}; in 95 % intervals {inside.mean():.0%}, without the "
        f"common factor {inside_common.mean():.0%} of {len(cuts)} cuts (intervals +- {1.96 * np.median(log_sd):.1%})"
    )


def _mape(off: np.ndarray) -> float:
    return float(np.abs(np.expm1(off)).mean())


def main() -> None:
    """Measure and print; some minutes on two cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--wire", default="float32")
    parser.add_argument("--slowdowns", type=float, nargs=2, default=[1.0, 3.0])
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    config = configuration({"model": options.model, "runtime": options.runtime, "wire": options.wire})
    testbed = Testbed(devices=[Device(name=f"x{one:g}", slowdown=one) for one in options.slowdowns])
    print(f"{options.model}, {options.runtime}, {options.wire}, slowdowns {options.slowdowns}", flush=True)
    with mock.patch("pplib.sweep.experiment.load_testbed", return_value=testbed):
        experiment = replace(proven(prepare(config, progress=False), Told(False)), testbed=testbed)
        first, second, hop = profiled(config, testbed)
    assert isinstance(first, DeviceProfile)
    assert isinstance(second, DeviceProfile)
    assert isinstance(hop, HopProfile)
    measured, last = trials(experiment, testbed, options.repeats), first.num_units
    times = [StageTimes(first), StageTimes(second)]
    alone = [levels([stage.rounds_s for stage in one.stages[:last]])[0] for one in (first, second)]
    print(*(f"{one.spread:.1%} rounds, {one.model_sd:.1%} model" for one in times), sep="; ")
    sizes = [cut.activation_bytes for cut in experiment.partitioned.points]
    inner = list(range(1, last))
    print(
        told("stage 0", measured, "stage0_compute_s", [*inner, last], lambda p: times[0].at(0, p),
             lambda p: float(alone[0][:p].sum())),
        told("stage 1", measured, "stage1_compute_s", [0, *inner], lambda p: times[1].at(p, last),
             lambda p: float(alone[1][p:].sum())),
        told("hop 0", measured, "hop0_transfer_s", [0, *inner, last],
             lambda p: (hop.transfer.at(float(measured[0][p]["payload_bytes"] or sizes[p])), hop.transfer.log_sd)),
        told("return", measured, "return_transfer_s", [0, *inner, last],
             lambda p: (hop.back.at(sizes[last]), hop.back.log_sd)),
        sep="\n",
    )  # fmt: skip


if __name__ == "__main__":
    main()
