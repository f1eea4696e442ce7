"""Requested against measured for the link engines: round-trip time over delays, TCP goodput over rates.

    python benchmarks/link_engine.py [--engine userspace] [--repeats 5]

Each row is a median over `--repeats` runs, with the smallest and the largest beside it. Delay: the
requested value is set in each direction, and the measured one is half the median of the round trips
of one run, of 64 bytes over one TCP connection, with the interpreter at both ends in it. Rate: bytes
of payload at the receiver per second, TCP's start (the first fifth) left out; `expected` is the rate
less the headers of full segments (1448 bytes of payload in 1500 of IP). Sender, receiver and link
share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from pplib.links import UNSHAPED, Direction, LinkProfile
from pplib.testbed.namespaces import Namespaces, namespaces

PORT = 5000
PAYLOAD = 1448 / 1500
DELAYS_S = (0.001, 0.010, 0.100, 0.200)
RATES_BIT_S = (5e6, 50e6, 100e6, 1000e6)
LIMIT_S = 120.0
SECONDS = 4.0


def receive(connection: socket.socket, size: int) -> None:
    """Receive exactly `size` bytes."""
    while size:
        got = len(connection.recv(min(size, 1 << 20)))
        if not got:
            raise SystemExit("the other end is gone")
        size -= got


def serve(address: str) -> None:
    """Echo 64 bytes at a time, or take in as many as the client says and tell it their rate."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.create_server((address, PORT)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                size = int(connection.recv(12, socket.MSG_WAITALL))
                if not size:
                    while got := connection.recv(64):
                        connection.sendall(got)
                    continue
                receive(connection, size // 5)
                start = time.monotonic()
                receive(connection, size - size // 5)
                connection.sendall(f"{(size - size // 5) * 8 / (time.monotonic() - start)}\n".encode())


def client(address: str, size: int) -> None:
    """Print the rate of `size` bytes; or, with 0, the seconds of a round trip."""
    with socket.create_connection((address, PORT), timeout=LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"{size:012d}".encode())
        if size:
            block = bytes(1 << 20)
            for sent in range(0, size, len(block)):
                connection.sendall(block[: size - sent])
            print(json.dumps(float(connection.makefile().readline())))
            return
        times = []
        for _ in range(15):
            start = time.monotonic()
            connection.sendall(bytes(64))
            receive(connection, 64)
            times.append(time.monotonic() - start)
        print(json.dumps(statistics.median(times[1:])))


def measure(net: Namespaces, size: int) -> float:
    """Run one client in device 0 against the server in device 1."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--client", net.addresses[1], str(size)]
    with net.popen(0, argv, stdout=subprocess.PIPE) as process:
        return float(json.loads(process.communicate(timeout=LIMIT_S)[0]))


def row(words: str, values: list[float], scale: float, expected: float) -> str:
    """One line of the table; all values in the unit that `scale` gives."""
    median = statistics.median(values)
    figures = " | ".join(f"{value * scale:8.2f}" for value in (expected, median, min(values), max(values)))
    return f"| {words:>16} | {figures} | {100 * (median / expected - 1):+6.1f} % |"


def table(engine: str, repeats: int) -> None:
    """Measure and print."""

    def run(direction: Direction, size: int) -> list[float]:
        net.set_profile(LinkProfile(name="row", forward=direction, backward=direction))
        return [measure(net, size) for _ in range(repeats)]

    with namespaces(2, engine=engine) as net:  # type: ignore[arg-type]
        argv = [sys.executable, str(Path(__file__).resolve()), "--server", net.addresses[1]]
        with net.popen(1, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            server.stdout.readline()  # type: ignore[union-attr]
            print(f"engine {net.engine}, {os.cpu_count()} cores\n")
            print("|        requested | expected |   median |      min |      max |    off   |")
            print("| ---------------- | -------- | -------- | -------- | -------- | -------- |")
            net.set_profile(UNSHAPED)
            bare_s = [value / 2 for value in run(Direction(), 0)]
            bare_mbit = statistics.median(run(Direction(), 500_000_000)) / 1e6
            for delay_s in DELAYS_S:
                try:
                    halves = [value / 2 for value in run(Direction(delay_s=delay_s), 0)]
                except Exception as exc:  # noqa: BLE001  (an engine without delay still has rates)
                    print(f"| {f'{delay_s * 1e3:g} ms':>16} | not with this engine here: {exc}")
                    continue
                print(row(f"{delay_s * 1e3:g} ms", halves, 1e3, delay_s), flush=True)
            for rate in RATES_BIT_S:
                values = run(Direction(rate_bit_s=rate), round(rate / 8 * SECONDS))
                print(row(f"{rate / 1e6:g} Mbit/s", values, 1e-6, rate * PAYLOAD), flush=True)
            print(f"\nunshaped: {statistics.median(bare_s) * 1e3:.2f} ms one way, {bare_mbit:.0f} Mbit/s")
            server.stdin.close()  # type: ignore[union-attr]


def main() -> None:
    """The table; or one end of a measurement, started by it inside a device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="auto", choices=["auto", "tc", "userspace"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        serve(arguments.server)
    elif arguments.client:
        client(arguments.client[0], int(arguments.client[1]))
    else:
        table(arguments.engine, arguments.repeats)


if __name__ == "__main__":
    main()
