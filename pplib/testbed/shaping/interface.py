"""Shaping a real device's interface: only the traffic that is asked for, and only while somebody renews it.

Each device shapes what leaves it: towards the next device with the forward direction of a profile,
towards the previous one with the backward direction. All other traffic passes a class of its own
that has no limit. The commands are plain text here; a `Runner` carries them to the device.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from pplib.errors import ConfigError, TransportError
from pplib.links import Direction
from pplib.testbed.shaping.tc import Command, egress_commands
from pplib.testbed.ssh.command import Completed

ROOT = 0x77
FIRST_LEAF = 0x100
RESTORABLE = ("bfifo", "fq_codel", "netem", "pfifo", "sfq", "tbf")


class Runner(Protocol):
    """Runs one command as root on a device, over SSH or here."""

    def __call__(self, command: Sequence[str]) -> Completed:
        """Run it to its end."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What to shape, and how: TCP over IPv4 that leaves the device.

    Attributes:
        direction: what the link is to be like.
        ports: a segment from or to one of these; empty means any port.
        peer: only segments to this IPv4 address; None means to any.
    """

    direction: Direction
    ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    peer: str | None = None


def shape_commands(interface: str, rules: Sequence[Rule], exempt_ports: Sequence[int] = (22,)) -> list[Command]:
    """The commands that shape `interface` by `rules`, the first that matches; root must be free.

    `exempt_ports` stay unshaped whatever the rules say: SSH and the control connection.

    Raises:
        ConfigError: a rule would match everything.
    """
    root = f"{ROOT:x}:"
    commands = [["tc", "qdisc", "add", "dev", interface, "root", "handle", root, "htb"]]  # no default: unlimited
    commands.append(_class(interface, 1))
    for port in exempt_ports:
        commands += [_filter(interface, 1, match, 1) for match in _ports(port)]
    for i, rule in enumerate(rules):
        if not rule.ports and rule.peer is None:
            raise ConfigError(
                "shaping: expected a rule to name ports or a peer, got neither: it would match everything"
            )
        if not rule.direction.shaped:
            continue
        minor = 0x10 + i
        commands.append(_class(interface, minor))
        commands += egress_commands(interface, rule.direction, f"{ROOT:x}:{minor:x}", FIRST_LEAF + 2 * i)
        peer = [] if rule.peer is None else ["match", "ip", "dst", f"{rule.peer}/32"]
        matches = [match for port in rule.ports for match in _ports(port)] or [[]]
        commands += [_filter(interface, 2 + i, [*peer, *match], minor) for match in matches]
    return commands


def _class(interface: str, minor: int) -> Command:
    where = ["tc", "class", "add", "dev", interface, "parent", f"{ROOT:x}:", "classid", f"{ROOT:x}:{minor:x}"]
    return [*where, "htb", "rate", "10gbit", "quantum", "60000"]


def _filter(interface: str, priority: int, match: Sequence[str], minor: int) -> Command:
    where = ["tc", "filter", "add", "dev", interface, "parent", f"{ROOT:x}:", "protocol", "ip", "prio", str(priority)]
    return [*where, "u32", "match", "ip", "protocol", "6", "0xff", *match, "flowid", f"{ROOT:x}:{minor:x}"]


def _ports(port: int) -> list[list[str]]:
    return [["match", "ip", way, str(port), "0xffff"] for way in ("sport", "dport")]


def restore_command(interface: str, shown: str) -> Command | None:
    """The command that puts back the root that `tc qdisc show dev INTERFACE` shows; None for the kernel's default.

    Raises:
        ConfigError: it is one that cannot be put back from what is shown, such as a tree of classes.

    >>> restore_command("eth0", "qdisc tbf 8001: root refcnt 2 rate 5Mbit burst 10Kb lat 50ms")[5:]
    ['root', 'handle', '8001:', 'tbf', 'rate', '5Mbit', 'burst', '10Kb', 'lat', '50ms']
    """
    for line in shown.splitlines():
        words = line.split()
        if len(words) < 4 or words[0] != "qdisc" or words[3] != "root":
            continue
        kind, handle, options = words[1], words[2], words[4:]
        if handle == "0:":  # one that the kernel made by itself, and makes again
            return None
        if kind not in RESTORABLE or f"parent {handle}" in shown:
            raise ConfigError(
                f"{interface} has a queueing discipline of somebody else, {kind} {handle}, that could not be put back "
                f"after shaping: expected the default or one of {', '.join(RESTORABLE)}; "
                f"remove it (`tc qdisc del dev {interface} root`) or use another interface"
            )
        if options[:1] == ["refcnt"]:
            options = options[2:]
        options = [
            _number(option) if before == "limit" else option
            for before, option in zip(["", *options], options, strict=False)
        ]
        return ["tc", "qdisc", "add", "dev", interface, "root", "handle", handle, kind, *options]
    return None


def _number(option: str) -> str:
    return option.removesuffix("p")  # shown as `1000p`, taken as `1000`


def watchdog_command(interface: str, restore: Command | None, token: str, undo_after_s: int) -> Command:
    """A command that returns at once and undoes the shaping unless the file `token` changes every `undo_after_s`.

    It counts seconds by itself, as a device's date may jump when it finds a time server. It ends
    without a word when the file is gone: then the shaping was undone in an orderly way.
    """
    undo = "; ".join(shlex.join(command) for command in unshape_commands(interface, restore))
    script = (
        f"seen=; left={undo_after_s}; while [ $left -gt 0 ]; do "
        f"[ -e {shlex.quote(token)} ] || exit 0; now=$(cat {shlex.quote(token)}); "
        f'if [ "$now" != "$seen" ]; then seen=$now; left={undo_after_s}; fi; '
        f"sleep 1; left=$((left - 1)); done; rm -f {shlex.quote(token)}; {undo}"
    )
    return ["sh", "-c", f"setsid -f sh -c {shlex.quote(script)} </dev/null >/dev/null 2>&1"]


def unshape_commands(interface: str, restore: Command | None) -> list[Command]:
    """The commands that remove the shaping and put back what was there."""
    return [["tc", "qdisc", "del", "dev", interface, "root", "handle", f"{ROOT:x}:"], *([restore] if restore else [])]


class Shaping:
    """The shaping of one interface of one device, from `start` to `undo`; call `renew` in between."""

    def __init__(self, run: Runner, interface: str, undo_after_s: int = 30, folder: str = "/run") -> None:
        self._run, self._interface, self._undo_after_s = run, interface, undo_after_s
        self._token = f"{folder}/paretopipe-shaping-{secrets.token_hex(8)}"
        self._restore: Command | None = None
        self._renewals = 0
        self.active = False

    def start(self, rules: Sequence[Rule], exempt_ports: Sequence[int] = (22,)) -> None:
        """Shape; if any command fails, nothing is left of it.

        Raises:
            ConfigError: the interface, its present discipline or the kernel does not allow it.
            TransportError: the device refused a command for another reason.
        """
        commands = shape_commands(self._interface, rules, exempt_ports)
        shown = self._do(["tc", "qdisc", "show", "dev", self._interface]).stdout
        if f" {ROOT:x}: root" in shown:  # left by a run that died a moment ago, before its timer ended it
            raise ConfigError(
                f"{self._interface} is shaped by another run of this program: wait for it, or for its timer, "
                f"or remove it with `tc qdisc del dev {self._interface} root`"
            )
        self._restore = restore_command(self._interface, shown)
        self.active = True
        try:
            if self._restore:
                self._do(["tc", "qdisc", "del", "dev", self._interface, "root"])
            # The timer first: whatever happens between two commands, it undoes them.
            self.renew()
            self._do(watchdog_command(self._interface, self._restore, self._token, self._undo_after_s))
            for command in commands:
                self._do(command)
        except (ConfigError, TransportError):
            self.undo()
            raise

    def renew(self) -> None:
        """Say that the shaping is still wanted; due more often than every `undo_after_s`.

        Raises:
            TransportError: the device does not answer.
        """
        self._renewals += 1
        self._do(["sh", "-c", f"echo {self._renewals} > {shlex.quote(self._token)}"])

    def undo(self) -> None:
        """Remove the shaping and put back what was there; harmless when it is gone already."""
        if self.active:
            self.active = False
            self._run(["rm", "-f", self._token])
            for command in unshape_commands(self._interface, self._restore):
                self._run(command)

    def _do(self, command: Sequence[str]) -> Completed:
        done = self._run(command)
        if done.returncode:
            raise _explain(self._interface, command, done.stderr)
        return done


def _explain(interface: str, command: Sequence[str], said: str) -> ConfigError | TransportError:
    said = " ".join(said.split())
    words = f"{interface}: `{shlex.join(command)}` failed: {said}"
    unknown = next((kind for kind in ("netem", "tbf", "htb") if kind in command and "unknown" in said), "")
    if unknown == "netem":
        return ConfigError(
            f"{interface}: this profile needs delay, jitter or loss, and the device's kernel has no netem: install the "
            "package with extra kernel modules (linux-modules-extra-$(uname -r) on Ubuntu, kernel-modules-extra on "
            f"Fedora), then `modprobe sch_netem`; or use a profile with a rate only ({said})"
        )
    if unknown:
        return ConfigError(f"{interface}: the device's kernel has no {unknown}: `modprobe sch_{unknown}` ({said})")
    if "Operation not permitted" in said:
        return ConfigError(f"{words}: shaping needs root on the device, for example through sudo")
    if "Cannot find device" in said:
        return ConfigError(f"{words}: name an interface that `ip link` shows on the device")
    return TransportError(words)
