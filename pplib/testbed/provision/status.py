"""What a device has of ours, and what an environment of its own must have."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec

from pplib import ROOT
from pplib.devices import Device
from pplib.testbed.provision.torch_builds import SURVEY, Build, System, survey_lines
from pplib.testbed.shipping.bundle import HASH_HERE
from pplib.testbed.shipping.our_code import FOLDER, VENV, find_python, our_code, python_path
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.ssh.device import SshDevice

REQUIREMENTS = ROOT / "requirements-pi.txt"


# Whole or not at all, and once, also where two do it at the same time.
_NAME_HOME = """[ -s {home} ] || {{ mkdir -p -- {folder} && echo {name} > {folder}/home.{name} && \
ln -- {folder}/home.{name} {home}; rm -f -- {folder}/home.{name}; }} 2> /dev/null"""


class Status(msgspec.Struct, frozen=True):
    """What a device has of ours.

    Attributes:
        python: the interpreter of its workers; empty where there is none.
        code: the content hash of what lies where our code belongs; empty where there is nothing.
        installed: the mark of what the environment that `setup` makes got; empty where it is missing or half made.
        ready: whether `setup` once ended well with this interpreter, code and requirements.
        home: the same on devices that share a home; empty before the first `setup`.
        system: what a build of PyTorch depends on.
    """

    python: str
    code: str
    installed: str
    ready: bool
    home: str
    system: System

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to set up."""
        return self.ready and bool(self.python) and self.code == our_code().hash


def lock_of(requirements: Path, build: Build) -> Path | None:
    """The lock file of these requirements in which this build of PyTorch is; None where none has it."""
    for path in sorted((requirements.parent / "locks").glob(f"{requirements.stem}-*.txt")):
        if {line.partition(" ")[0] for line in path.read_text().splitlines()}.issuperset(build.constraints):
            return path
    return None


def installed_mark(requirements: Path, build: Build) -> str:
    """What stands in the file `installed` of an environment that got these requirements and this build."""
    wanted = [(lock_of(requirements, build) or requirements).read_text(), *build.constraints]
    return hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:32]


def stamp_of(device: Device, requirements: Path) -> str:
    """The file on a device that says that it was set up with this interpreter, these requirements and this code."""
    wanted = [our_code().hash, python_path(device), "" if device.python else requirements.read_text()]
    return f"{FOLDER}/ready/{hashlib.sha256(chr(0).join(wanted).encode()).hexdigest()[:32]}"


def status_of(machine: SshDevice, requirements: Path = REQUIREMENTS, name_home: bool = False) -> Status:
    """Ask a device what it has, in one round trip.

    Args:
        machine: the device.
        requirements: what its environment is to have.
        name_home: whether to give its home a name, by which devices that share it are known, if it has none.

    Raises:
        TransportError: it cannot be asked.
    """
    home = shell_path(f"{FOLDER}/home")
    script = f"""{find_python(machine.device)}; [ -x "$python" ] && echo "python=$python"
[ -e {shell_path(f"{VENV}/installed")} ] && echo "installed=$(cat {shell_path(f"{VENV}/installed")})"
[ -e {shell_path(stamp_of(machine.device, requirements))} ] && echo ready=yes
{_NAME_HOME.format(folder=shell_path(FOLDER), home=home, name=secrets.token_hex(8)) if name_home else ":"}
[ -s {home} ] && echo "home=$(cat {home})"
{SURVEY}
cd {shell_path(our_code().folder)} 2>/dev/null && echo "code=$({HASH_HERE})"
true"""
    said = survey_lines(machine.run(["sh", "-c", script], check=True).stdout)
    python, code, installed, named = (said.get(word, "") for word in ("python", "code", "installed", "home"))
    return Status(python, code, installed, "ready" in said, named, System.of(said))
