"""From a fresh Raspberry Pi OS to a device that can run a worker; the second time there is nothing to do."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence

from pplib import limits
from pplib.devices import Testbed
from pplib.errors import ParetoPipeError
from pplib.runtimes import NAMES, runtime
from pplib.testbed.provision.environments import install
from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.status import Status, status_of
from pplib.testbed.provision.torch_builds import NO_TORCH, Build, choose
from pplib.testbed.shipping.our_code import FOLDER, our_code, python_command
from pplib.testbed.ssh.command import CommandError
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.endings import died, ending
from pplib.testbed.ssh.parallel import for_each

Say = Callable[[str], None]


class _Home:
    """Devices that share a home, most often one alone: what one of them installs, all have."""

    def __init__(self) -> None:
        self.members: list[tuple[SshDevice, Status, Build, Needs]] = []

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(machine.name for machine, *_ in self.members)


def set_up(
    testbed: Testbed,
    say: Say = lambda line: None,
    needs: Mapping[str, Needs] = {},
    limit_s: float = 2 * limits.INSTALL_S,
) -> dict[str, str | ParetoPipeError]:
    """Set up every remote device, all at the same time.

    A device without `python` in the device file gets a virtual environment of its own under
    `~/.paretopipe`, with what it needs installed by pip, and, where that is PyTorch, a build that suits what is
    found there (`torch_builds`); one with `python` is only looked at. Each gets our code under its
    content hash. What an environment has beside that stays, if it is what another `setup` would install now. A
    device that has all this costs one round trip. Devices that share a home are set up one after the other.

    Args:
        testbed: the devices; those on this machine need nothing.
        say: is called with a line of text whenever something takes its time, from several threads.
        needs: of each device, by its name; where nothing is told, eager PyTorch.
        limit_s: how long all devices together may take.

    Returns:
        What was done, by device; or the error that ended it, which says what to do.
    """
    found: dict[str, str | ParetoPipeError] = {
        device.name: "this machine: nothing to set up" for device in testbed.devices if not device.remote
    }
    remote = [SshDevice(device) for device in testbed.devices if device.remote]
    try:
        asked = for_each(remote, lambda one: status_of(one, needs.get(one.name), name_home=True), limits.STATUS_S)
        known = [(one, said) for one, said in zip(remote, asked, strict=True) if isinstance(said, Status)]
        found.update({one.name: said for one, said in zip(remote, asked, strict=True) if not isinstance(said, Status)})
        homes = _homes(known, needs)
        for home, done in zip(homes, for_each(homes, lambda home: _set_up_home(home, say), limit_s), strict=True):
            for i, (machine, *_) in enumerate(home.members):
                found[machine.name] = done if isinstance(done, ParetoPipeError) else done[i]
    finally:
        for_each(remote, lambda machine: machine.close(), 5.0)
    return {device.name: found[device.name] for device in testbed.devices}


def _homes(known: Sequence[tuple[SshDevice, Status]], needs: Mapping[str, Needs]) -> list[_Home]:
    own = [(machine, status) for machine, status in known if machine.device.python is None]
    builds = choose([status.system for _, status in own], _version_here("torch"), _version_here("torchvision"))
    build_of = {machine.name: build for (machine, _), build in zip(own, builds, strict=True)}
    homes: dict[str, _Home] = {}
    for machine, status in known:
        home = homes.setdefault(status.home or machine.name, _Home())
        its = needs.get(machine.name, Needs())
        home.members.append((machine, status, build_of.get(machine.name, NO_TORCH), its))
    return list(homes.values())


def _version_here(package: str) -> str:
    """The release that is installed here, without what it was built for."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _set_up_home(home: _Home, say: Say) -> list[str | ParetoPipeError]:
    done: list[str | ParetoPipeError] = []
    for i, (machine, status, build, needs) in enumerate(home.members):
        try:
            if machine.device.python is None:
                _agree(home, i)
            now = status if i == 0 else status_of(machine, needs)
            done.append(_set_up(machine, now, build, needs, say))
        except ParetoPipeError as exc:
            done.append(exc)
    return done


def _agree(home: _Home, index: int) -> None:
    """Make sure that the environment of those before it in the home will do for this device."""
    machine, status, build, needs = home.members[index]
    for other, its_status, its_build, its_needs in home.members[:index]:
        if other.device.python is not None:
            continue
        unlike = [
            f"{word} {its} on {other.name}, {own} here"
            for word, its, own in (
                ("machine", its_status.system.machine, status.system.machine),
                ("Python", _dotted(its_status.system.python3), _dotted(status.system.python3)),
                ("torch", its_needs.build(its_build).torch, needs.build(build).torch),
            )
            if its and own and its != own
        ]
        if unlike:
            raise CommandError(
                f"{machine.name}: it shares its home with {other.name}, and one environment cannot serve both "
                f"({'; '.join(unlike)}): give one of them `python` in the device file, an environment of its own"
            )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _set_up(machine: SshDevice, status: Status, build: Build, needs: Needs, say: Say) -> str:
    device, done = machine.device, []
    installed = set(needs.marks(build)) <= set(status.installed)
    if status.complete and (device.python is not None or installed):
        return "ready: nothing to do"
    if device.python is None:
        if not (installed and status.python):
            keep = (
                bool(status.installed)
                and bool(status.python)
                and set(status.installed) <= set(Needs(NAMES).marks(build))
            )
            install(machine, status.system, needs.build(build), needs, keep, say, limits.INSTALL_S)
            done.append(f"{needs.names} installed")
    elif not status.python:
        raise CommandError(
            f"{machine.name}: there is no {device.python}: correct `python` in the device file, or leave it out to "
            "have an environment made"
        )
    if status.code != our_code().hash:
        done.append(f"code shipped ({our_code().put_on(machine) / 1e3:.0f} kB)")
    say(f"{machine.name}: importing it all")
    done.append(_verify(machine, needs))
    machine.put(b"", f"{FOLDER}/ready/{needs.stamp(device)}")
    return "ready: " + ", ".join(done)


def _verify(machine: SshDevice, needs: Needs) -> str:
    """Import what a worker imports, from where a worker finds it."""
    modules = [module for name in needs.runtimes for module in runtime(name).MODULES]
    text = (
        f"import {', '.join(modules)}, pplib.pipeline.worker.command_line as worker; "
        f"print(worker.__file__, {', '.join(f'{name}.__version__' for name in modules)}, sep=chr(10))"
    )
    done = machine.run(python_command(machine.device, ["-c", text]), timeout_s=limits.IMPORT_S)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if died(done.returncode):
            last = ending(done.returncode)
        hint = (
            ""
            if machine.device.python is None
            else (f": install what {needs.names} lists into {machine.device.python}")
        )
        raise CommandError(f"{machine.name}: what a worker needs cannot be imported: {last}{hint}")
    file, *versions = done.stdout.splitlines()
    if our_code().hash not in file:
        raise CommandError(
            f"{machine.name}: pplib is imported from {file}, not from {our_code().folder}: remove it there"
        )
    return ", ".join(f"{name} {version}" for name, version in zip(modules, versions, strict=True))
