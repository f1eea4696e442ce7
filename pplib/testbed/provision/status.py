"""What a device has of ours."""

from __future__ import annotations

import secrets

import msgspec

from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.torch_builds import SURVEY, System, survey_lines
from pplib.testbed.shipping.bundle import HASH_HERE
from pplib.testbed.shipping.our_code import FOLDER, VENV, find_python, our_code
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.ssh.device import SshDevice

# Whole or not at all, and once, also where two do it at the same time.
_NAME_HOME = """[ -s {home} ] || {{ mkdir -p -- {folder} && echo {name} > {folder}/home.{name} && \
ln -- {folder}/home.{name} {home}; rm -f -- {folder}/home.{name}; }} 2> /dev/null"""


class Status(msgspec.Struct, frozen=True):
    """What a device has of ours.

    Attributes:
        python: the interpreter of its workers; empty where there is none.
        code: the content hash of what lies where our code belongs; empty where there is nothing.
        installed: the marks of what the environment that `setup` makes got; none where it is missing or half made.
        ready: whether `setup` once ended well with this interpreter, code and needs.
        home: the same on devices that share a home; empty before the first `setup`.
        system: what a build of PyTorch depends on.
    """

    python: str
    code: str
    installed: tuple[str, ...]
    ready: bool
    home: str
    system: System

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to set up."""
        return self.ready and bool(self.python) and self.code == our_code().hash


def status_of(machine: SshDevice, needs: Needs | None = None, name_home: bool = False) -> Status:
    """Ask a device what it has, in one round trip.

    Args:
        machine: the device.
        needs: what its environment is to have; None: what eager PyTorch needs.
        name_home: whether to give its home a name, by which devices that share it are known, if it has none.

    Raises:
        TransportError: it cannot be asked.
    """
    home, stamp = shell_path(f"{FOLDER}/home"), (needs or Needs()).stamp(machine.device)
    script = f"""{find_python(machine.device)}; [ -x "$python" ] && echo "python=$python"
[ -e {shell_path(f"{VENV}/installed")} ] && echo "installed=$(tr "\\n" " " < {shell_path(f"{VENV}/installed")})"
[ -e {shell_path(f"{FOLDER}/ready/{stamp}")} ] && echo ready=yes
{_NAME_HOME.format(folder=shell_path(FOLDER), home=home, name=secrets.token_hex(8)) if name_home else ":"}
[ -s {home} ] && echo "home=$(cat {home})"
{SURVEY}
cd {shell_path(our_code().folder)} 2>/dev/null && echo "code=$({HASH_HERE})"
true"""
    said = survey_lines(machine.run(["sh", "-c", script], check=True).stdout)
    python, code, installed, named = (said.get(word, "") for word in ("python", "code", "installed", "home"))
    return Status(python, code, tuple(installed.split()), "ready" in said, named, System.of(said))
