"""The data plane through SSH: each device logs in to its neighbours, with a key that is good for nothing else."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pplib import limits
from pplib.errors import ParetoPipeError, TransportError
from pplib.pipeline.wire.connection import tunnel_end
from pplib.testbed.shipping.our_code import python_command
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.ssh.config import resolve
from pplib.testbed.ssh.parallel import all_or_error, for_each
from pplib.testbed.workers.local import write_ending
from pplib.testbed.workers.remote import RemoteWorker

VALID_DAYS = 7

# Puts the line $3 of run $1 into authorized_keys, or takes it away (none); lines that runs have left behind go, too.
# A whole file or none, owner and mode kept. The line expires ($2 days), should nobody be left to take it away.
_AUTHORIZE = r"""set -e; umask 077
mkdir -p ~/.ssh; file=$(readlink -f ~/.ssh/authorized_keys); new=$file.$1
[ -z "$3" ] && [ ! -e "$file" ] && exit 0
exec 9< ~/.ssh; flock -w 10 9
[ -e "$file" ] || : > "$file"
trap 'rm -f -- "$new"' EXIT
cp -p -- "$file" "$new"
{ while IFS= read -r line || [ -n "$line" ]; do
    run=${line##* paretopipe-}
    case $run in "$1") continue ;; "$line" | *[!0-9a-f]*) ;; *) [ -d ~/.paretopipe/run/"$run" ] || continue ;; esac
    printf '%s\n' "$line"
  done < "$file"
  [ -z "$3" ] || printf 'expiry-time="%s",%s paretopipe-%s\n' "$(date -d "+$2 days" +%Y%m%d%H%M)" "$3" "$1"; } > "$new"
mv -f -- "$new" "$file"
"""

# Runs until its own input ends: that of ssh is none. Says `up` when the far end's worker answers through it.
_TUNNEL = r"""socket=$1 pid=; shift
rm -f -- "$socket"
exec 3<&0
"$@" < /dev/null & pid=$!
(cat <&3; kill "$pid") > /dev/null 2>&1 &
while [ ! -S "$socket" ] && kill -0 "$pid" 2> /dev/null; do sleep 0.05; done
[ -S "$socket" ] && echo up
wait "$pid"
"""

# A worker's data port speaks first.
_ANSWERS = r"""import socket, sys
with socket.socket(socket.AF_UNIX) as end:
    end.settimeout(10)
    end.connect(sys.argv[1])
    sys.exit(0 if end.recv(4) == b"PPHS" else "closed at once: does its SSH server allow TCP forwarding?")
"""


class RunKey:
    """A key pair of one run: it opens the data ports of the run's workers, and nothing else, for some days."""

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        kinds = serialization.Encoding, serialization.PrivateFormat, serialization.NoEncryption()
        self.private = key.private_bytes(kinds[0].PEM, kinds[1].OpenSSH, kinds[2])
        self.public = key.public_key().public_bytes(kinds[0].OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def authorize(worker: RemoteWorker, key: RunKey | None) -> None:
    """Let `key` reach the data port of a worker's device, whose user it belongs to; None takes that back.

    Raises:
        TransportError: the device cannot be reached, or its authorized_keys cannot be written.
    """
    line = ""
    if key is not None:
        target = f"127.0.0.1:{worker.data_port}"
        line = f'restrict,port-forwarding,permitopen="{target}",command="false" {key.public}'
    words = [worker.run_id, str(VALID_DAYS), line]
    worker.machine.run(["sh", "-c", _AUTHORIZE, "sh", *words], check=True)


class Tunnel:
    """From a Unix socket in the folder of the worker `here` to the data port of the worker `there`, kept open."""

    def __init__(self, here: RemoteWorker, there: RemoteWorker, stage_there: int, key: RunKey) -> None:
        self._here, self._there, self._key = here, there, key
        self._socket, self._alias = tunnel_end(stage_there), f"stage-{stage_there}"
        self._closing = threading.Event()
        self._channel: paramiko.Channel | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open it, and have it looked after until `close`.

        Raises:
            TransportError: one of the two devices cannot be reached, or the one from the other.
        """
        self._channel = self._opened()
        self._thread = threading.Thread(target=self._keep, name=f"tunnel {self._alias}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close it; what goes through it is lost."""
        self._closing.set()
        if (channel := self._channel) is not None:
            channel.close()
        if self._thread is not None:
            self._thread.join(limits.TUNNEL_OPEN_S + limits.TUNNEL_RETRY_S)

    def _keep(self) -> None:
        while self._channel is not None:
            with contextlib.suppress(OSError):
                while self._channel.recv(1024):
                    continue
            self._channel.close()
            self._channel = self._opened_again()

    def _opened_again(self) -> paramiko.Channel | None:
        while not self._closing.is_set():
            try:
                authorize(self._there, self._key)  # the line may have expired, or the device been installed anew
                channel = self._opened()
            except ParetoPipeError as exc:  # a device that is booting, say: for whoever reads the log
                write_ending(self._here.log, f"its tunnel is down: {exc}")
                self._closing.wait(limits.TUNNEL_RETRY_S)
                continue
            if self._closing.is_set():
                channel.close()
                return None
            return channel
        return None

    def _opened(self) -> paramiko.Channel:
        here, server = self._here.machine, self._there.machine.server()
        address, folder = resolve(self._there.device), self._here.folder_there
        known = f"{self._alias} {server.host_key}\n".encode()
        here.put(self._key.private, f"{folder}/key", mode=0o600)
        here.put(known, f"{folder}/known-{self._alias}", mode=0o600)
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ExitOnForwardFailure": "yes",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": self._alias,
            "IdentitiesOnly": "yes",
            "IPQoS": "none",  # else a wireless network sends it after everything else
            "LogLevel": "ERROR",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "5",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f"known-{self._alias}",
        }
        ssh = ["ssh", "-F", "none", "-N", "-T", "-i", "key", "-p", str(server.port)]
        ssh += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        ssh += ["-L", f"{self._socket}:127.0.0.1:{self._there.data_port}", f"{server.user}@{address}"]
        inner = shlex.join([self._socket, *ssh])
        channel = here.hold(["sh", "-c", f"cd -- {shell_path(folder)} && set -- {inner}\n{_TUNNEL}"])
        try:
            self._wait_up(channel)
            self._check()
        except BaseException:
            channel.close()
            raise
        return channel

    def _wait_up(self, channel: paramiko.Channel) -> None:
        channel.settimeout(limits.TUNNEL_OPEN_S)
        try:
            said = channel.recv(16)
        except TimeoutError as exc:
            raise self._error("no answer in time") from exc
        if not said.startswith(b"up"):
            raise self._error(b"".join(iter(lambda: channel.recv_stderr(4096), b"")).decode(errors="replace"))
        channel.settimeout(None)

    def _check(self) -> None:
        words = python_command(self._here.device, ["-I", "-S", "-c", _ANSWERS, self._socket], fallback=True)
        inner = f"cd -- {shell_path(self._here.folder_there)} && {shlex.join(words)}"
        done = self._here.machine.run(["sh", "-c", inner])
        if done.returncode:
            raise self._error(done.stderr.strip().rpartition("\n")[2])

    def _error(self, said: str) -> TransportError:
        there = self._there.device.name
        return TransportError(
            f"{self._here.device.name}: no SSH tunnel from it to {there} at {resolve(self._there.device)}: "
            f"{' '.join(said.split()) or 'ssh ended without a word'}"
        )


@contextlib.contextmanager
def tunnels(workers: Sequence[RemoteWorker]) -> Iterator[None]:
    """Have every worker reach the next, and each the first, to which the last one returns results.

    Raises:
        TransportError: a device cannot be reached, or one from another.
    """
    key, count = RunKey(), len(workers)
    hops = sorted({*itertools.pairwise(range(count)), *((i, 0) for i in range(1, count))})
    opened = [Tunnel(workers[i], workers[j], j, key) for i, j in hops]
    limit_s = 3 * limits.TUNNEL_OPEN_S

    def close() -> list[Any]:
        for_each(opened, lambda tunnel: tunnel.close(), limit_s)
        return for_each(workers, lambda worker: authorize(worker, None), limit_s)

    with contextlib.ExitStack() as stack:
        stack.callback(close)
        all_or_error(for_each(workers, lambda worker: authorize(worker, key), limit_s))
        all_or_error(for_each(opened, lambda tunnel: tunnel.open(), limit_s))
        yield
