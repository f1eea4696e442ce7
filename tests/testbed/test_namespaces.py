"""Emulated devices for real: namespaces, both engines, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplib import ROOT
from pplib.errors import ConfigError, WorkerError
from pplib.links import UNSHAPED, Direction, LinkProfile
from pplib.testbed.emulation import namespaces as room
from pplib.testbed.emulation.namespace_process import Offers
from pplib.testbed.emulation.namespaces import choose_engine, namespaces, supported

HELPERS = ROOT / "tests" / "helpers"
LIMIT_S = 60.0
pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("emulated_links")]
ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(bool(lack), reason=f"no {engine} engine here: {lack}"))
    for engine, lack in (("userspace", room._offers().userspace), ("tc", room._offers().tc))
]


def both(name="test", **values):
    return LinkProfile(name=name, forward=Direction(**values), backward=Direction(**values))


class Peer:
    """A process inside a device."""

    def __init__(self, net, device, *arguments):
        self.process = net.popen(
            device,
            [sys.executable, str(HELPERS / "peer.py"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def hear(self):
        line, end = b"", time.monotonic() + LIMIT_S
        while not line.endswith(b"\n"):
            out = self.process.stdout.fileno()
            assert select.select([out], [], [], max(0, end - time.monotonic()))[0], "the peer said nothing"
            part = os.read(out, 65_536)
            assert part, "the peer has ended"
            line += part
        return json.loads(line)

    def round_trips(self, count):
        self.process.stdin.write(f"{count}\n".encode())
        self.process.stdin.flush()
        return self.hear()

    def close(self):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(LIMIT_S)


@contextlib.contextmanager
def chain(*arguments, **options):
    """A chain, and a function that starts peers in it, which end before it does."""
    with namespaces(*arguments, **options) as net, contextlib.ExitStack() as stack:

        def start(device, *words):
            peer = Peer(net, device, *words)
            stack.callback(peer.close)
            return peer

        yield net, start


def echo_between(net, start, source, target):
    assert start(target, "serve", net.addresses[target]).hear() == "ready"
    client = start(source, "echo", net.addresses[target])
    assert client.hear() == "ready"
    return client


@pytest.mark.parametrize("engine", ENGINES)
def test_three_devices_in_a_chain_reach_each_other_and_have_one_address_each(engine):
    with chain(3, engine=engine) as (net, start):
        assert net.engine == engine
        assert net.addresses == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
        assert net.interfaces == ["data"] * 3
        for device in range(3):
            assert start(device, "serve", net.addresses[device]).hear() == "ready"
        for source in range(3):
            for target in set(range(3)) - {source}:
                client = start(source, "echo", net.addresses[target])
                assert client.hear() == "ready"
                assert len(client.round_trips(3)) == 3


@pytest.mark.parametrize("devices", [2, 3])
def test_a_round_trip_takes_the_delay_of_every_hop_there_and_back(devices):
    profile = LinkProfile(name="uneven", forward=Direction(delay_s=0.02), backward=Direction(delay_s=0.01))
    with chain(devices, profile, engine="userspace") as (net, start):
        median = statistics.median(echo_between(net, start, 0, devices - 1).round_trips(15))
    hops = devices - 1
    assert 0.0295 * hops <= median <= 0.03 * hops * 1.05 + 0.005


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("rate_bit_s", "size"), [(5e6, 800_000), (30e6, 5_000_000)])
def test_tcp_gets_the_rate_less_its_headers(engine, rate_bit_s, size):
    with chain(2, both(rate_bit_s=rate_bit_s), engine=engine) as (net, start):
        assert start(1, "serve", net.addresses[1]).hear() == "ready"
        goodput = start(0, "send", net.addresses[1], size).hear()
    assert 0.85 * rate_bit_s <= goodput <= 1.01 * rate_bit_s


def test_each_direction_has_its_own_rate():
    profile = LinkProfile(name="up", forward=Direction(rate_bit_s=4e6), backward=Direction(rate_bit_s=20e6))
    with chain(2, profile, engine="userspace") as (net, start):
        for device in (0, 1):
            assert start(device, "serve", net.addresses[device]).hear() == "ready"
        forward = start(0, "send", net.addresses[1], 500_000).hear()
        backward = start(1, "send", net.addresses[0], 2_500_000).hear()
    assert forward == pytest.approx(4e6, rel=0.15)
    assert backward == pytest.approx(20e6, rel=0.15)


def test_a_connection_stays_open_while_the_profile_changes():
    with chain(2, engine="userspace") as (net, start):
        client = echo_between(net, start, 0, 1)
        assert min(client.round_trips(10)) < 0.02
        net.set_profile(both(delay_s=0.05))
        assert net.profile.forward.delay_s == 0.05
        assert min(client.round_trips(5)) >= 0.099
        net.set_profile(both(delay_s=0.01, rate_bit_s=1e6))
        assert 0.0195 <= min(client.round_trips(10)) < 0.05
        net.set_profile(UNSHAPED)
        assert min(client.round_trips(10)) < 0.02


def test_lost_packets_are_sent_again_and_all_arrives():
    with chain(2, both(loss=0.05), engine="userspace", seed=3) as (net, start):
        assert start(1, "serve", net.addresses[1]).hear() == "ready"
        assert start(0, "send", net.addresses[1], 300_000).hear() > 0
        sent, received = net.counters(0)[1], net.counters(1)[0]
        assert received < sent


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("profile", [UNSHAPED, both(rate_bit_s=100e6)], ids=["none", "100-mbit"])
def test_counters_match_the_bytes_sent_and_those_of_others_do_not_show(engine, profile):
    size = 2_000_000
    with chain(3, profile, engine=engine) as (net, start):
        assert start(2, "serve", net.addresses[2]).hear() == "ready"
        before = [net.counters(device) for device in range(3)]
        start(0, "send", net.addresses[2], size).hear()
        after = [net.counters(device) for device in range(3)]
    grown = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
    assert size <= grown[2][0] <= size * 1.1  # headers, and what TCP sent again
    assert size <= grown[0][1]  # fewer headers where the sender hands over many segments at once
    assert max(grown[1]) < 5000  # it passes device 1, but is not its own


@pytest.mark.skipif(not room._offers().netem, reason="this kernel has netem: nothing to refuse")
def test_tc_without_netem_says_so_and_leaves_the_link_unshaped():
    with chain(2, both(rate_bit_s=1e6), engine="tc") as (net, start):
        with pytest.raises(ConfigError, match=r"link far \(engine tc\).*netem.*unknown"):
            net.set_profile(both("far", delay_s=0.1, rate_bit_s=1e6))
        assert net.profile == UNSHAPED
        assert min(echo_between(net, start, 0, 1).round_trips(5)) < 0.05


def wait_until(condition, what):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        select.select([], [], [], 0.02)


def holders(inodes):
    """Processes that are in one of these namespaces, or hold one open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [process / "ns" / "net", *(process / "fd").iterdir()]
            for link in links:
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in inodes:
                        found.add(process.name)
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["kill", "raise"])
def test_nothing_is_left_of_a_chain_whose_owner_ends(engine, how):
    interfaces = sorted(Path("/sys/class/net").iterdir())
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(HELPERS / "owner.py"), engine, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as owner:
        assert select.select([owner.stdout], [], [], LIMIT_S)[0], "the owner did not start"
        told = json.loads(owner.stdout.readline())
        assert len(holders(told["namespaces"])) == 3
        if how == "kill":
            owner.send_signal(signal.SIGKILL)
        else:
            owner.stdin.close()
        assert owner.wait(LIMIT_S) == (-signal.SIGKILL if how == "kill" else 3)
    wait_until(lambda: not holders(told["namespaces"]), f"still there: {told}")
    assert sorted(Path("/sys/class/net").iterdir()) == interfaces


def test_a_keeper_that_died_is_an_error_with_what_to_do():
    with namespaces(2, engine="userspace") as net:
        os.kill(net.pid, signal.SIGKILL)
        net._keeper.wait(LIMIT_S)
        with pytest.raises(WorkerError, match=r"has ended.*start it again"):
            net.counters(0)


def test_an_answer_to_a_question_that_was_interrupted_is_not_taken_for_the_next(monkeypatch):
    with namespaces(2, engine="userspace") as net:

        def interrupted(timeout_s):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(net, "_read", interrupted)
            net.set_profile(both(delay_s=0.1))
        assert net.counters(0) == (0, 0)
        assert net.profile == UNSHAPED


def test_asking_for_a_link_where_there_are_no_namespaces_says_why(monkeypatch):
    monkeypatch.setattr(room, "_offers", lambda: Offers("no namespaces", "no namespaces", "no namespaces"))
    assert supported() == "no namespaces"
    with (
        pytest.raises(ConfigError, match="needs network namespaces: no namespaces; or run with `link: none`"),
        namespaces(2, both(delay_s=0.1)),
    ):
        pass


@pytest.mark.parametrize(
    ("offers", "engine"),
    [(Offers("", "", ""), "tc"), (Offers("", "", "no netem"), "userspace"), (Offers("", "x", "x"), "userspace")],
)
def test_auto_takes_tc_only_where_it_can_do_everything(monkeypatch, offers, engine):
    monkeypatch.setattr(room, "_offers", lambda: offers)
    assert choose_engine("auto") == engine


def test_wrong_arguments_are_errors():
    with pytest.raises(ConfigError, match="engine: expected auto, tc or userspace, got 'veth'"):
        choose_engine("veth")
    with pytest.raises(ConfigError, match="num_devices: expected 1 to 250, got 0"), namespaces(0):
        pass
