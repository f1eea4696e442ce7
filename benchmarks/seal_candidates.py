"""What it costs to prove messages, by several means, over one TCP connection each between two processes.

    python benchmarks/seal_candidates.py [--rounds 40] [--rate-mbit 1000]

A message goes over, is proved, and is answered by one byte; every round sends one message of a size by each means in
turn, in an order of its own. Printed are medians of the time per message, and of its excess over `none` in the same
round. `poly1305` is what `pplib.pipeline.wire.seal` does. With `--rate-mbit` the two processes are in networks of
their own, joined by an emulated link of that rate (needs network namespaces).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import hashlib
import hmac
import os
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import NameOID

from pplib.links import Direction, LinkProfile
from pplib.pipeline.wire.seal import Seal
from pplib.testbed.emulation.namespaces import namespaces

SIZES = {"5 kB": 5_000, "150 kB": 150_000, "1 MB": 1_000_000, "16 MB": 16_000_000}
PIECE_BYTES = 1 << 18
KEY, NONCE = bytes(range(32)), bytes(12)
READY = b"ready\n"
Start = Callable[..., subprocess.Popen[bytes]]


class Gmac:
    """AES-256-GCM over associated data alone."""

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES(KEY), modes.GCM(NONCE)).encryptor()
        self.update = self._encryptor.authenticate_additional_data

    def finalize(self) -> bytes:
        """The tag."""
        self._encryptor.finalize()
        return self._encryptor.tag


class Digest:
    """One of the standard library's."""

    def __init__(self, made: Any) -> None:
        self.update, self.finalize = made.update, made.digest


MACS: dict[str, Callable[[], Any]] = {
    "blake2b": lambda: Digest(hashlib.blake2b(key=KEY, digest_size=16)),
    "hmac-sha256": lambda: Digest(hmac.new(KEY, digestmod="sha256")),
    "aes-gmac": Gmac,
    "poly1305": Seal(KEY).begin,
}
MEANS = ("none", *MACS, "tls 1.3")


def send(sock: socket.socket, content: memoryview, means: str) -> None:
    """One message."""
    if means not in MACS:
        sock.sendall(content)
        return
    tag = MACS[means]()
    if len(content) <= PIECE_BYTES:
        tag.update(content)
        sock.sendmsg([content, tag.finalize()])
        return
    sock.sendall(content)
    tag.update(content)
    sock.sendall(tag.finalize())


def receive(sock: socket.socket, content: memoryview, means: str) -> None:
    """One message, proved."""
    tag = MACS[means]() if means in MACS else None
    for start in range(0, len(content), PIECE_BYTES):
        piece = content[start : start + PIECE_BYTES]
        fill(sock, piece)
        if tag is not None:
            tag.update(piece)
    if tag is not None:
        proof = tag.finalize()
        got = memoryview(bytearray(len(proof)))
        fill(sock, got)
        if not hmac.compare_digest(proof, got):
            sys.exit(f"{means}: the proof is wrong")


def fill(sock: socket.socket, view: memoryview) -> None:
    """Exactly as many bytes as fit."""
    while len(view):
        count = (
            sock.recv_into(view, 0, 0)
            if isinstance(sock, ssl.SSLSocket)
            else sock.recv_into(view, 0, socket.MSG_WAITALL)
        )
        if not count:
            raise SystemExit("the other end closed the connection")
        view = view[count:]


def certificate(folder: Path) -> None:
    """A key and a certificate of our own."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(private)


def serve(address: str, port: int, folder: Path) -> None:
    """The receiving process: a connection for each means, then messages until the sender has enough."""
    with socket.create_server((address, port)) as server:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        socks: dict[str, socket.socket] = {}
        for means in MEANS:
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if means == "tls 1.3":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.load_cert_chain(folder / "cert", folder / "key")
                sock = context.wrap_socket(sock, server_side=True)
            socks[means] = sock
        buffers = {size: memoryview(bytearray(size)) for size in SIZES.values()}
        order = memoryview(bytearray(5))
        while True:
            fill(socks["none"], order)  # which means, and how many bytes
            means, size = MEANS[order[0]], int.from_bytes(order[1:], "little")
            if not size:
                return
            receive(socks[means], buffers[size], means)
            socks[means].sendall(b"!")


def measure(address: str, port: int, rounds: int) -> None:
    """The sending process, which prints."""
    socks: dict[str, socket.socket] = {}
    for means in MEANS:
        sock = socket.create_connection((address, port), 30)
        sock.settimeout(120)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if means == "tls 1.3":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        socks[means] = sock
    print("| size | " + " | ".join(MEANS) + " |\n|" + " --- |" * (len(MEANS) + 1))
    for label, size in SIZES.items():
        content, times = memoryview(bytearray(os.urandom(size))), {means: list[float]() for means in MEANS}
        for number in range(rounds + 2):
            for means in random.sample(MEANS, len(MEANS)):
                begun = time.perf_counter()
                socks["none"].sendall(bytes([MEANS.index(means)]) + size.to_bytes(4, "little"))
                send(socks[means], content, means)
                fill(socks[means], memoryview(bytearray(1)))
                if number >= 2:  # the first two warm up
                    times[means].append(time.perf_counter() - begun)
        cells = []
        for means in MEANS:
            excess = statistics.median(a - b for a, b in zip(times[means], times["none"], strict=True))
            cells.append(
                f"{statistics.median(times[means]) * 1e3:.3f} ms" + (f", {excess * 1e3:+.3f}" if excess else "")
            )
        print(f"| {label} | {' | '.join(cells)} |")
    socks["none"].sendall(bytes(5))


@contextlib.contextmanager
def ends(rate_mbit: float) -> Iterator[tuple[str, Start, Start]]:
    """The receiver's address, and how to start a command at the receiver's and at the sender's end."""
    if not rate_mbit:
        yield "127.0.0.1", subprocess.Popen, subprocess.Popen
        return
    way = Direction(rate_bit_s=rate_mbit * 1e6)
    with namespaces(2, LinkProfile(name="bench", forward=way, backward=way)) as net:
        yield net.addresses[1], functools.partial(net.popen, 1), functools.partial(net.popen, 0)


def main() -> None:
    """Start both processes and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rate-mbit", type=float, default=0.0, help="of an emulated link; 0: loopback")
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, address, port, folder = options.role
        serve(address, int(port), Path(folder)) if role == "serve" else measure(address, int(port), options.rounds)
        return
    with tempfile.TemporaryDirectory() as name, ends(options.rate_mbit) as (address, there, here):
        certificate(Path(name))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [sys.executable, __file__, "--rounds", str(options.rounds), "--role"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        with there([*words, "serve", address, str(port), name], stdout=subprocess.PIPE, env=env) as server:
            assert server.stdout is not None
            server.stdout.readline()
            with here([*words, "measure", address, str(port), name], env=env) as client:
                client.wait(900)


if __name__ == "__main__":
    main()
