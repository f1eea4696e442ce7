"""What a profile is to be of, and where it is kept."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from pplib.config import Configuration, project_path
from pplib.devices import Device
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.wire.messages import Description
from pplib.planner.profiles.kept import P, find_profile, profile_path, read_profile
from pplib.runtimes import check_offered
from pplib.sweep.experiment import Experiment
from pplib.testbed.session import Session

FOLDER = "profiles"  # in the folder of outputs
_HARDWARE = ("cpu", "machine", "gpu", "logical_cpus", "cores")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a profile is to be of; see `Kept`."""

    folder: Path
    name: str
    asked: dict[str, Any]
    found: dict[str, Any]

    @property
    def path(self) -> Path:
        """Where it is, or will be."""
        return profile_path(self.folder, self.name, self.asked, self.found)

    def kept(self, kind: type[P], fresh: bool) -> P | None:
        """What is there and fits; where it is to be measured again nothing, but what is there must be a profile."""
        if not fresh:
            return find_profile(self.folder, kind, self.name, self.asked, self.found)
        if self.path.exists():
            read_profile(self.path, kind)
        return None


def devices_wanted(config: Configuration, experiment: Experiment, coordinator: Coordinator) -> list[Wanted]:
    """One for each device of a pipeline.

    Raises:
        ConfigError: a device lacks the runtime of its stage.
    """
    told = [worker.description for worker in coordinator.workers]
    check_offered(config.runtime, [(one.name, one.runtimes, one.unfit) for one in told])
    return [
        Wanted(
            project_path(config.output_dir) / FOLDER,
            device.name,
            {
                **_asked(device),
                **_powers(device),
                **_model(config, experiment),
                "runtime": name,
                "precision": config.precision,
                "optimize": config.optimize,
            },
            {**_found(one), "runtime_version": one.runtimes[name]},
        )
        for device, one, name in zip(experiment.testbed.devices, told, config.runtimes, strict=False)
    ]


def hops_wanted(
    config: Configuration, experiment: Experiment, session: Session, coordinator: Coordinator
) -> list[Wanted]:
    """One for each hop of a pipeline."""
    pairs = zip(experiment.testbed.devices, coordinator.workers, strict=False)
    ends = [(device, _found(worker.description)) for device, worker in pairs]
    return [
        Wanted(
            project_path(config.output_dir) / FOLDER,
            f"{here.name}-{there.name}",
            {"from": _asked(here), "to": _asked(there), **_model(config, experiment), **_way(config, session, hop)},
            {"from": found, "to": others},
        )
        for hop, ((here, found), (there, others)) in enumerate(itertools.pairwise(ends))
    ]


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


def _powers(device: Device) -> dict[str, Any]:
    """Which powers stand in for a meter, where a device file says so."""
    return {} if device.idle_w is None else {"idle_w": device.idle_w, "busy_w": device.busy_w}


def _found(told: Description) -> dict[str, Any]:
    """What a device tells of itself; of its memory to a GB, for kernels keep a little more or less to themselves."""
    hardware = {key: told.host[key] for key in _HARDWARE if key in told.host}
    return {**hardware, "memory_gb": round(float(told.host["memory_bytes"]) / 1e9)}


def _way(config: Configuration, session: Session, hop: int) -> dict[str, Any]:
    """What a message goes through."""
    way = {key: getattr(config, key) for key in ("backend", "wire", "optimize", "num_stages")} | {"hop": hop}
    return {**way, "runtimes": config.runtimes[hop : hop + 2], "engine": session.engine, "tunnel": session.tunnel}
