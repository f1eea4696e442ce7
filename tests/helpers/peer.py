"""Run inside a device's namespace by the tests: a server, or a client that speaks JSON on its output."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

PORT = int(os.environ.get("PEER_PORT", "5000"))


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def receive(connection, size):
    got = bytearray()
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            raise SystemExit("the connection ended")
        got += part
    return bytes(got)


def handle(connection):
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive(connection, 1) == b"E":
            while got := connection.recv(4096):
                connection.sendall(got)
            return
        # A sink: the rate at which bytes came in, the first fifth (TCP's start) apart.
        size = int(receive(connection, 12))
        receive(connection, size // 5)
        begun = time.monotonic()
        receive(connection, size - size // 5)
        rate = (size - size // 5) * 8 / (time.monotonic() - begun)
        connection.sendall(json.dumps(rate).encode() + b"\n")


def serve(address):
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.create_server((address, PORT)) as server:
        say("ready")
        while True:
            threading.Thread(target=handle, args=server.accept()[:1], daemon=True).start()


def echo(address):
    """For each line with a number, so many round trips over one connection; their seconds."""
    with socket.create_connection((address, PORT), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"E")
        say("ready")
        for line in sys.stdin:
            times = []
            for _ in range(int(line)):
                start = time.monotonic()
                connection.sendall(bytes(64))
                receive(connection, 64)
                times.append(time.monotonic() - start)
            say(times)


def send(address, size):
    with socket.create_connection((address, PORT), timeout=60) as connection:
        connection.sendall(b"S" + f"{size:012d}".encode() + bytes(size))
        say(json.loads(connection.makefile().readline()))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    elif sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        send(sys.argv[2], int(sys.argv[3]))
