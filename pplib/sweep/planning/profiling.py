"""Profile the devices and the hops of a grid: what is kept and fits is used again, the rest is measured."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pplib import limits
from pplib.config import Configuration
from pplib.devices import Testbed
from pplib.errors import TrialError
from pplib.grid import loading_torch
from pplib.links import UNSHAPED
from pplib.pipeline.coordinator.coordinator import Coordinator, wall_clock
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.hop_profile import HopProfile
from pplib.planner.profiles.kept import keep_profile
from pplib.planner.profiles.stage_times import StageTimes
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.planning.device_timing import DeviceTiming, time_in_turns
from pplib.sweep.planning.hop_timing import HopTimes, time_hops
from pplib.sweep.planning.wanted import Wanted, devices_wanted, hops_wanted
from pplib.sweep.progress import State, Told
from pplib.testbed.session import Session, workers_up
from pplib.testbed.ssh.parallel import all_or_error, for_each


@dataclasses.dataclass(frozen=True)
class Profiled:
    """One profile, and whether it was there before."""

    profile: DeviceProfile | HopProfile
    path: Path
    again: bool


class ProfiledConfiguration(NamedTuple):
    """A configuration all of whose devices and hops are profiled, and what predicts its cuts."""

    config: Configuration
    pipeline: Pipeline


def profile_grid(
    configurations: tuple[Configuration, ...], testbeds: Mapping[str, Testbed], fresh: bool = False
) -> Iterator[Profiled | ProfiledConfiguration]:
    """Profile every device and every hop that configurations use, as they are known; each configuration after those.

    Args:
        configurations: of one grid.
        testbeds: by the name of each device file that they name, what that says.
        fresh: measure also what is kept.

    Raises:
        OutputError: a device is no longer what it was, see `find_profile`; or the folder cannot be written.
        WorkerError: a device cannot run a stage, or is lost.
    """
    done, experiments = dict[Path, DeviceProfile | HopProfile](), dict[object, Experiment]()
    for devices, testbed in testbeds.items():
        for shaped in (False, True):
            mine = [one for one in configurations if one.devices == devices and one.link_profile.shaped == shaped]
            if not mine:
                continue
            backends = sorted({one.backend for one in mine})
            with workers_up(testbed, backends, shaped, loading_torch(mine, testbed.names)) as session:
                for config in mine:
                    experiment = dataclasses.replace(_prepared(config, experiments), config=config, testbed=testbed)
                    yield from profile_configuration(experiment, session, done, fresh)


def profiled_pipelines(
    experiments: Sequence[Experiment], tell: Told, stack: contextlib.ExitStack
) -> dict[str, Pipeline]:
    """What predicts the cuts of each experiment, by the name of its configuration; what is kept is used again.

    Args:
        experiments: on the same devices; their cuts need not be proven.
        tell: says what is being done.
        stack: the workers stay up until it unwinds.

    Raises:
        as `profile_grid`.
    """
    found, done = dict[str, Pipeline](), dict[Path, DeviceProfile | HopProfile]()
    if experiments:
        first, configs = experiments[0], [one.config for one in experiments]
        names = ", ".join(device.name for device in first.testbed.first(first.config.num_stages))
        tell(State(doing=f"starting or reaching the workers of {names}"))
        backends, with_torch = sorted({one.backend for one in configs}), loading_torch(configs, first.testbed.names)
        session = stack.enter_context(workers_up(first.testbed, backends, first.link.shaped, with_torch))
        for experiment in experiments:
            tell(State(doing=f"profiling {names} and what is between them, for {experiment.config.identity}"))
            for one in profile_configuration(experiment, session, done):
                if isinstance(one, ProfiledConfiguration):
                    found[one.config.identity] = one.pipeline
    return found


def profile_configuration(
    experiment: Experiment, session: Session, done: dict[Path, DeviceProfile | HopProfile], fresh: bool = False
) -> Iterator[Profiled | ProfiledConfiguration]:
    """Profile the devices and hops of one configuration, over a link that is as it is; then the configuration.

    Args:
        experiment: prepared; its cuts need not be proven.
        session: with its workers.
        done: what was profiled before in this run, by where it is kept; what is found is added.
        fresh: measure also what is kept from other runs.

    Raises:
        as `profile_grid`.
    """
    config = experiment.config
    session.set_link(UNSHAPED)
    with session.pipeline(config.num_stages) as coordinator:
        wanted = devices_wanted(config, experiment, coordinator)
        hops = hops_wanted(config, experiment, session, coordinator)
        devices_of = _devices_profiled(wanted, config, experiment, coordinator, fresh, done)
        hops_of = _hops_profiled(hops, config, experiment, coordinator, fresh, done)
        for one in itertools.chain(devices_of, hops_of):
            done[one.path] = one.profile
            yield one
    yield _configuration(config, experiment, [done[one.path] for one in (*wanted, *hops)])


def _configuration(
    config: Configuration, experiment: Experiment, profiles: list[DeviceProfile | HopProfile]
) -> ProfiledConfiguration:
    return ProfiledConfiguration(
        config,
        Pipeline(
            stages=[StageTimes(one) for one in profiles if isinstance(one, DeviceProfile)],
            hops=[one for one in profiles if isinstance(one, HopProfile)],
            activation_bytes=[cut.activation_bytes for cut in experiment.partitioned.points],
            link=config.link_profile,
            in_flight=config.in_flight,
            batch_size=config.batch_size,
        ),
    )


def _prepared(config: Configuration, experiments: dict[object, Experiment]) -> Experiment:
    """The model of a configuration, without looking at its cuts."""
    key = (config.model, config.weights, config.num_classes, config.seed, config.batch_size, config.granularity)
    if key not in experiments:
        plain = msgspec.structs.replace(config, partition_points="even", num_images=2 * config.batch_size)
        experiments.clear()  # never two models in memory
        experiments[key] = prepare(plain, progress=False, prove=False)
    return experiments[key]


def _devices_profiled(
    wanted: list[Wanted],
    config: Configuration,
    experiment: Experiment,
    coordinator: Coordinator,
    fresh: bool,
    done: Mapping[Path, object],
) -> Iterator[Profiled]:
    timings = dict[Path, tuple[Wanted, DeviceTiming]]()
    devices = zip(wanted, experiment.testbed.devices, coordinator.workers, config.runtimes, strict=False)
    for one, device, worker, name in devices:
        if one.path in done:
            continue
        if kept := one.kept(DeviceProfile, fresh):
            yield Profiled(kept, one.path, True)
        else:
            timings[one.path] = one, DeviceTiming(experiment, config, worker, device, name)
    if timings:
        yield from _timed(list(timings.values()), experiment)


def _hops_profiled(
    hops: list[Wanted],
    config: Configuration,
    experiment: Experiment,
    coordinator: Coordinator,
    fresh: bool,
    done: Mapping[Path, object],
) -> Iterator[Profiled]:
    kept = [None if one.path in done else one.kept(HopProfile, fresh) for one in hops]
    missing = [i for i, one in enumerate(hops) if kept[i] is None and one.path not in done]
    yield from (Profiled(there, one.path, True) for one, there in zip(hops, kept, strict=True) if there)
    if missing:
        began = wall_clock()
        times, took_s = time_hops(experiment, config, coordinator)
        for i in missing:
            profile = _hop_profile(hops[i], times[i], began, took_s / len(hops))
            yield Profiled(profile, keep_profile(hops[i].folder, profile), False)


def _timed(timings: list[tuple[Wanted, DeviceTiming]], experiment: Experiment) -> Iterator[Profiled]:
    """Devices of one machine take turns, machines work at the same time."""
    began, machines = wall_clock(), dict[str, list[DeviceTiming]]()
    for _, timing in timings:
        machines.setdefault(timing.worker.description.boot_id, []).append(timing)
    took_s = all_or_error(for_each(list(machines.values()), time_in_turns, limits.PROFILE_S))
    took_of = dict(zip(machines, took_s, strict=True))
    for one, timing in timings:
        powers = timing.powers_w
        profile = DeviceProfile(
            name=one.name,
            asked=one.asked,
            found=one.found,
            began=began,
            took_s=took_of[timing.worker.description.boot_id],
            notes=timing.notes,
            stages=timing.stages(),
            activation_bytes=[cut.activation_bytes for cut in experiment.partitioned.points],
            room_bytes=timing.room_bytes,
            idle_w=powers and powers[0],
            busy_w=powers and powers[1],
        )
        yield Profiled(profile, keep_profile(one.folder, profile), False)


def _hop_profile(one: Wanted, times: HopTimes, began: str, took_s: float) -> HopProfile:
    transfer, back = times.line("transfer"), times.line("back")
    if transfer is None or back is None:
        raise TrialError(f"{one.name}: its messages took no time, expected more than 0: its clock is wrong")
    return HopProfile(
        name=one.name,
        asked=one.asked,
        found=one.found,
        began=began,
        took_s=took_s,
        transfer=transfer,
        encode=times.line("encode"),
        decode=times.line("decode"),
        back=back,
        num_bytes=times.num_bytes,
        payload_bytes=times.payload_bytes,
        rounds_s=times.took_s,
    )
