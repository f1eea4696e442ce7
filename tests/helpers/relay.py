"""A ProxyCommand: joins its standard input and output with a TCP port. Started inside a device's namespace."""

from __future__ import annotations

import os
import socket
import sys
import threading


def pump(source, sink, end):
    try:
        while data := os.read(source, 1 << 16):
            while data:
                data = data[os.write(sink, data) :]
    except OSError:
        os._exit(1)
    end()


def main(host, port):
    try:
        connection = socket.create_connection((host, int(port)), timeout=10)
    except OSError as exc:
        sys.exit(f"relay: {exc}")
    with connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Our user's end is what ends us: half of a connection is of no use to SSH.
        threading.Thread(target=pump, args=(0, connection.fileno(), lambda: os._exit(0)), daemon=True).start()
        pump(connection.fileno(), 1, lambda: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
