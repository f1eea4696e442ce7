"""What each device of a testbed needs, by the file that `setup` and `check` are given: a device file, or a grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pplib import ROOT
from pplib.config import PARAMETERS
from pplib.devices import Device, Testbed, load_testbed
from pplib.files.yaml_file import read_yaml
from pplib.grid import load_grid, runtimes_of
from pplib.runtimes import EAGER, needs_torch, runtime
from pplib.testbed.provision.torch_builds import ANY, NO_TORCH, Build
from pplib.testbed.shipping.our_code import our_code, python_path


@dataclass(frozen=True)
class Needs:
    """What the environment of a device is to have.

    Attributes:
        runtimes: that execute its stages.
        requirements: what pip installs for them; empty: what each runtime's own file lists.
    """

    runtimes: tuple[str, ...] = (EAGER,)
    requirements: tuple[Path, ...] = ()

    def files(self, build: Build) -> list[tuple[Path, Build]]:
        """What pip installs, each with the build of PyTorch that it gets of this one."""
        if self.requirements:
            return [(path, self.build(build)) for path in self.requirements]
        its = self.build(build)
        return [(ROOT / runtime(name).REQUIREMENTS, its if needs_torch(name) else NO_TORCH) for name in self.runtimes]

    @property
    def names(self) -> str:
        """The files, for messages."""
        return " and ".join(path.name for path, _ in self.files(NO_TORCH))

    @property
    def room_bytes(self) -> float:
        """What installing takes at its height, without PyTorch."""
        return sum(runtime(name).ROOM_BYTES for name in self.runtimes)

    def build(self, chosen: Build) -> Build:
        """The build of PyTorch that it gets, if it needs one."""
        if not any(needs_torch(name) for name in self.runtimes):
            return NO_TORCH
        # What was made with one version of PyTorch runs with no other: the newest, as the lock files have it.
        return ANY if chosen.torch and "executorch" in self.runtimes else chosen

    def marks(self, build: Build) -> list[str]:
        """What tells that an environment got these requirements and this build, one line for each file."""
        wanted = [
            chr(0).join([(lock_of(path, its) or path).read_text(), *its.constraints]) for path, its in self.files(build)
        ]
        return [hashlib.sha256(one.encode()).hexdigest()[:32] for one in wanted]

    def stamp(self, device: Device) -> str:
        """What tells that a device was set up with this interpreter, these requirements and this code."""
        texts = [] if device.python else [path.read_text() for path, _ in self.files(NO_TORCH)]
        wanted = [our_code().hash, python_path(device), *self.runtimes, *texts]
        return hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:32]


def lock_of(requirements: Path, build: Build) -> Path | None:
    """The lock file of these requirements in which this build of PyTorch is; None where none has it."""
    for path in sorted((requirements.parent / "locks").glob(f"{requirements.stem}-*.txt")):
        if {line.partition(" ")[0] for line in path.read_text().splitlines()}.issuperset(build.constraints):
            return path
    return None


def read_needs(path: Path) -> list[tuple[Testbed, dict[str, Needs]]]:
    """The testbeds of a device file, or of a grid with those devices that it uses, and what they need for it.

    A device file alone tells nothing of runtimes: all of it is for eager PyTorch then.

    Raises:
        ConfigError: it is neither.
    """
    values = read_yaml(path)
    named = values.get("devices")
    described = isinstance(named, list) and not all(isinstance(one, str) for one in named)
    if described or not (isinstance(named, str) or values.keys() & {*PARAMETERS} - {"devices"}):
        return [(load_testbed(path), {})]  # which says what is wrong with it
    configurations = load_grid(path).configurations
    found = list[tuple[Testbed, dict[str, Needs]]]()
    for name in dict.fromkeys(config.devices for config in configurations):
        mine = [config for config in configurations if config.devices == name]
        testbed = load_testbed(mine[0].devices_file)
        needs = {device: Needs(tuple(sorted(names))) for device, names in runtimes_of(mine, testbed.names).items()}
        used = [device for device in testbed.devices if needs[device.name].runtimes]
        found.append((msgspec.structs.replace(testbed, devices=used), needs))
    return found
