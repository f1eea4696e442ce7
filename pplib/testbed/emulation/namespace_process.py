"""The process that holds the network namespaces of a local testbed, and forwards packets between them.

Started by `pplib.testbed.emulation.namespaces`; speaks JSON, a line each way per request. All it made, and
every process it was told of, ends with it; and it ends when its standard input does, that is, when
the process that started it is gone, however that happened.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pplib import limits
from pplib.errors import ParetoPipeError
from pplib.links import UNSHAPED, LinkProfile
from pplib.testbed.emulation import syscalls
from pplib.testbed.emulation.chain import INTERFACE, Chain, Loopback, TcChain, TunChain, call

_CHAINS: dict[str, Callable[[int, LinkProfile, int], Chain]] = {
    "tc": TcChain,
    "userspace": TunChain,
    "loopback": Loopback,
}


class Request(msgspec.Struct, omit_defaults=True):
    """What the owner asks: one of these. The answer repeats `number`."""

    number: int = 0
    profile: LinkProfile | None = None
    counters: int | None = None
    watch: int | None = None


class Reply(msgspec.Struct, omit_defaults=True):
    """The answer. `namespaces` holds the descriptor of each device's namespace in this process."""

    number: int = 0
    error: str = ""
    namespaces: list[int] = []
    user: bool = False
    counters: tuple[int, int] = (0, 0)


class Offers(msgspec.Struct):
    """What this machine offers: the reason why not, or empty where it does. `loopback`: a network for all devices
    that nobody else reaches; the rest is for emulated links.
    """

    userspace: str
    tc: str
    netem: str
    loopback: str = ""


def probe() -> Offers:
    """Try each thing in a scratch namespace."""
    if not sys.platform.startswith("linux"):
        reason = f"network namespaces are a feature of Linux, this is {sys.platform}"
        return Offers(reason, reason, reason, reason)
    if shutil.which("nsenter") is None:
        reason = "nsenter not found: install util-linux"
        return Offers(reason, reason, reason, reason)
    try:
        _enter_user_namespace()
        syscalls.new_network()
        syscalls.loopback_up()
    except OSError as exc:
        reason = (
            f"this user may not make network namespaces ({exc.strerror}): allow user namespaces "
            "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns) or run as root"
        )
        return Offers(reason, reason, reason, reason)
    if shutil.which("ip") is None:
        reason = "ip not found: install iproute2"
        return Offers(reason, reason, reason)
    return Offers(_try_tun(), *_try_tc())


def _try_tun() -> str:
    try:
        os.close(syscalls.open_tun("probe"))
    except OSError as exc:
        return f"no TUN device ({exc}): load the module tun, and let this user open /dev/net/tun"
    return ""


def _try_tc() -> tuple[str, str]:
    if shutil.which("tc") is None:
        return ("tc not found: install iproute2",) * 2
    try:
        call("ip link add dev probe-a type veth peer name probe-b")
        call("ip link add dev probe-c type bridge")
        call("tc qdisc add dev probe-a root tbf rate 1mbit burst 10kb latency 50ms")
    except ParetoPipeError as exc:
        return (str(exc),) * 2
    try:
        call("tc qdisc add dev probe-b root netem delay 1ms")
    except ParetoPipeError:
        return "", (
            "this kernel has no netem: install the package with extra kernel modules "
            "(linux-modules-extra-$(uname -r) on Ubuntu, kernel-modules-extra on Fedora), then `modprobe sch_netem`"
        )
    return "", ""


def _enter_user_namespace() -> bool:
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            syscalls.new_network()
            return False
    syscalls.become_root_of_user_namespace()
    return True


class Keeper:
    """The chain, the processes to end with it, and the conversation with the owner."""

    def __init__(self, chain: Chain, user: bool) -> None:
        self._chain, self._user = chain, user
        self._watched: list[int] = []
        self._unread = b""

    def serve(self) -> None:
        """Answer requests until the owner is gone; then end what is left in the namespaces."""
        self._reply(Reply(namespaces=self._chain.namespaces, user=self._user))
        self._chain.run(sys.stdin.fileno(), self._on_readable)
        self._end_watched()

    def _on_readable(self) -> bool:
        got = os.read(sys.stdin.fileno(), 65_536)
        if not got:
            return False
        *lines, self._unread = (self._unread + got).split(b"\n")
        for line in lines:
            request = msgspec.json.decode(line, type=Request)
            try:
                reply = self._answer(request)
            except (OSError, ParetoPipeError) as exc:
                reply = Reply(error=str(exc))
            reply.number = request.number
            self._reply(reply)
        return True

    def _answer(self, request: Request) -> Reply:
        if request.profile is not None:
            self._chain.set_profile(request.profile)
        if request.watch is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended already
                self._watched.append(os.pidfd_open(request.watch))
        if request.counters is not None:
            return Reply(counters=self._count(self._chain.namespaces[request.counters]))
        return Reply()

    def _count(self, namespace: int) -> tuple[int, int]:
        syscalls.setns(namespace)
        for line in Path("/proc/self/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == INTERFACE:
                fields = numbers.split()
                return int(fields[0]), int(fields[8])
        raise ParetoPipeError(f"the interface {INTERFACE} is gone from its namespace")

    def _reply(self, reply: Reply) -> None:
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: the next read says so
            os.write(sys.stdout.fileno(), msgspec.json.encode(reply) + b"\n")

    def _end_watched(self) -> None:
        """Their standard input ended as ours did: give them a moment to notice, then end them."""
        end = time.monotonic() + limits.NAMESPACE_GRACE_S
        for pidfd in self._watched:
            if not select.select([pidfd], [], [], max(0.0, end - time.monotonic()))[0]:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Probe, or build a chain and serve it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", action="store_true", help="print what this machine offers, as JSON")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--engine", choices=list(_CHAINS), default="userspace")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.probe:
        os.write(1, msgspec.json.encode(probe()))
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    with contextlib.suppress(OSError):
        os.nice(-10)  # a busy worker must not delay packets; only root may, others do without
    try:
        user = _enter_user_namespace()
        keeper = Keeper(_CHAINS[arguments.engine](arguments.devices, UNSHAPED, arguments.seed), user)
    except (OSError, subprocess.SubprocessError, ParetoPipeError) as exc:
        os.write(1, msgspec.json.encode(Reply(error=str(exc))) + b"\n")
        return 1
    keeper.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
