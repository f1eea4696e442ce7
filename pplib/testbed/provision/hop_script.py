"""Round trips and goodput between two machines. Its text is sent to both and run by any Python there.

Each reads a request, one line of JSON, from its standard input. The `sink` listens on one address,
for one connection of who knows the secret; the `source` connects to it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import sys
import time

ROUNDS = 20
PIECE_BYTES = 1 << 17


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            sys.exit("the other end closed the connection")
        got += part
    return got


def sink(address: str, port: int, secret: bytes, limit_s: float) -> dict[str, float]:
    """Echo some bytes, then take what comes; its rate, without the first fifth of the time (TCP's start)."""
    with socket.create_server((address, port), backlog=4) as server:
        end = time.monotonic() + limit_s
        while True:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection = server.accept()[0]
            except OSError:
                sys.exit(f"nobody came to {address}:{port} within {limit_s:.0f} s")
            connection.settimeout(limit_s)
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hmac.compare_digest(receive(connection, len(secret)), secret):
                    return measure(connection)


def measure(connection: socket.socket) -> dict[str, float]:
    """The sink's side of one measurement."""
    for _ in range(ROUNDS):
        connection.sendall(receive(connection, 1))
    buffer, count, marks = bytearray(PIECE_BYTES), 0, []
    while got := connection.recv_into(buffer):
        count += got
        marks.append((time.monotonic(), count))
    if not marks:
        sys.exit("nothing arrived")
    first = marks[0][0] + 0.2 * (marks[-1][0] - marks[0][0])
    after = [mark for mark in marks if mark[0] >= first]
    elapsed = after[-1][0] - after[0][0]
    return {"goodput_bit_s": (after[-1][1] - after[0][1]) * 8 / elapsed if elapsed > 0 else 0.0}


def source(address: str, port: int, secret: bytes, limit_s: float, duration_s: float) -> dict[str, float]:
    """Some round trips of one byte, then data for `duration_s`; the shortest round trip in seconds."""
    end = time.monotonic() + limit_s
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=max(0.01, end - time.monotonic()))
            break
        except OSError as exc:
            if time.monotonic() + 0.1 > end:
                sys.exit(f"cannot connect to {address}:{port}: {exc}")
            time.sleep(0.1)  # the other end is starting
    with connection:
        connection.settimeout(limit_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # a slow link drains it soon
        connection.sendall(secret)
        trips = []
        for _ in range(ROUNDS):
            start = time.monotonic()
            connection.sendall(b"x")
            receive(connection, 1)
            trips.append(time.monotonic() - start)
        piece, end = os.urandom(PIECE_BYTES), time.monotonic() + duration_s
        while time.monotonic() < end:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            connection.recv(1)  # the other end has read everything
    return {"rtt_s": min(trips)}


def main() -> None:
    """Be the one or the other."""
    request = json.loads(sys.stdin.readline())
    secret = bytes.fromhex(request["secret"])
    where = request["address"], request["port"], secret, request["limit_s"]
    answer = sink(*where) if request["role"] == "sink" else source(*where, request["duration_s"])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
