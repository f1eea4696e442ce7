"""Profile the devices and the hops of a grid: what is kept and fits is used again, the rest is measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pplib import limits
from pplib.config import Configuration, project_path
from pplib.devices import Device, Testbed
from pplib.errors import TrialError
from pplib.grid import loading_torch
from pplib.links import UNSHAPED
from pplib.pipeline.coordinator.coordinator import Coordinator, wall_clock
from pplib.pipeline.wire.messages import Description
from pplib.plan.device_timing import DeviceTiming, time_in_turns
from pplib.plan.hop_timing import HopTimes, time_hops
from pplib.planner.prediction import Pipeline
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.hop_profile import HopProfile
from pplib.planner.profiles.kept import P, find_profile, keep_profile, profile_path, read_profile
from pplib.planner.profiles.stage_times import StageTimes
from pplib.runtimes import check_offered
from pplib.sweep.experiment import Experiment, prepare
from pplib.testbed.session import Session, workers_up
from pplib.testbed.ssh.parallel import all_or_error, for_each

FOLDER = "profiles"  # in the folder of outputs
_HARDWARE = ("cpu", "machine", "gpu", "logical_cpus", "cores")


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
                session.set_link(UNSHAPED)
                for config in mine:
                    experiment = dataclasses.replace(_prepared(config, experiments), config=config, testbed=testbed)
                    with session.pipeline(config.num_stages) as coordinator:
                        wanted = _devices_wanted(config, experiment, coordinator)
                        hops = _hops_wanted(config, experiment, session, coordinator)
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


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What a profile is to be of; see `Kept`."""

    folder: Path
    name: str
    asked: dict[str, Any]
    found: dict[str, Any]

    @property
    def path(self) -> Path:
        return profile_path(self.folder, self.name, self.asked, self.found)

    def kept(self, kind: type[P], fresh: bool) -> P | None:
        """What is there and fits; where it is to be measured again nothing, but what is there must be a profile."""
        if not fresh:
            return find_profile(self.folder, kind, self.name, self.asked, self.found)
        if self.path.exists():
            read_profile(self.path, kind)
        return None


def _devices_wanted(config: Configuration, experiment: Experiment, coordinator: Coordinator) -> list[_Wanted]:
    told = [worker.description for worker in coordinator.workers]
    check_offered(config.runtime, [(one.name, one.runtimes, one.unfit) for one in told])
    return [
        _Wanted(
            project_path(config.output_dir) / FOLDER,
            device.name,
            {
                **_asked(device),
                **_model(config, experiment),
                "runtime": name,
                "precision": config.precision,
                "optimize": config.optimize,
            },
            {**_found(one), "runtime_version": one.runtimes[name]},
        )
        for device, one, name in zip(experiment.testbed.devices, told, config.runtimes, strict=False)
    ]


def _devices_profiled(
    wanted: list[_Wanted],
    config: Configuration,
    experiment: Experiment,
    coordinator: Coordinator,
    fresh: bool,
    done: Mapping[Path, object],
) -> Iterator[Profiled]:
    timings = dict[Path, tuple[_Wanted, DeviceTiming]]()
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


def _hops_wanted(
    config: Configuration, experiment: Experiment, session: Session, coordinator: Coordinator
) -> list[_Wanted]:
    pairs = zip(experiment.testbed.devices, coordinator.workers, strict=False)
    ends = [(device, _found(worker.description)) for device, worker in pairs]
    return [
        _Wanted(
            project_path(config.output_dir) / FOLDER,
            f"{here.name}-{there.name}",
            {"from": _asked(here), "to": _asked(there), **_model(config, experiment), **_way(config, session, hop)},
            {"from": found, "to": others},
        )
        for hop, ((here, found), (there, others)) in enumerate(itertools.pairwise(ends))
    ]


def _hops_profiled(
    hops: list[_Wanted],
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


def _timed(timings: list[tuple[_Wanted, DeviceTiming]], experiment: Experiment) -> Iterator[Profiled]:
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
            idle_w=powers and powers[0],
            busy_w=powers and powers[1],
        )
        yield Profiled(profile, keep_profile(one.folder, profile), False)


def _hop_profile(one: _Wanted, times: HopTimes, began: str, took_s: float) -> HopProfile:
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


def _model(config: Configuration, experiment: Experiment) -> dict[str, Any]:
    """What is computed."""
    content = experiment.content
    return {
        **{key: getattr(config, key) for key in ("model", "granularity", "batch_size")},
        "image": list(experiment.batches[0].shape[1:]),
        "model_sha256": content["model"],
        "weights_sha256": content["weights"],
    }


def _asked(device: Device) -> dict[str, Any]:
    """What a device file says of how a device computes."""
    return {key: getattr(device, key) for key in ("name", "torch_device", "threads", "cores", "slowdown")}


def _found(told: Description) -> dict[str, Any]:
    """What a device tells of itself; of its memory to a GB, for kernels keep a little more or less to themselves."""
    hardware = {key: told.host[key] for key in _HARDWARE if key in told.host}
    return {**hardware, "memory_gb": round(float(told.host["memory_bytes"]) / 1e9)}


def _way(config: Configuration, session: Session, hop: int) -> dict[str, Any]:
    """What a message goes through."""
    way = {key: getattr(config, key) for key in ("backend", "wire", "optimize", "num_stages")} | {"hop": hop}
    return {**way, "runtimes": config.runtimes[hop : hop + 2], "engine": session.engine, "tunnel": session.tunnel}
