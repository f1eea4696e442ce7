"""A worker on a remote device: started over SSH, detached, reached through SSH, and gone when nobody needs it."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path

from pplib import limits
from pplib.devices import Device
from pplib.errors import TransportError, WorkerError
from pplib.pipeline.worker.command_line import FORGOTTEN, Ready, read_ready
from pplib.testbed.provision.status import status_of
from pplib.testbed.shipping.our_code import FOLDER, our_code, python_command
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.ssh.config import resolve
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.forward import Bridge
from pplib.testbed.workers.local import SILENT, settings_of, write_ending

NOT_READY = 3

# The shell reads the settings, so that the token is in no argument and in no environment; the worker gets them the
# same way. A second shell outlives the login and notes how the worker ended: in a symbolic link, for which
# there is room on a full disk too.
_START = r"""umask 077
dir=$1; limit=$2; shift 2
mkdir -p -- "$dir" && cd -- "$dir" || exit 1
rm -f ready exit log silent
no_room=$(head -c 65536 /dev/zero 2>&1 > room) || { rm -f room; echo "$PWD: $no_room: make room there"; exit 1; }
rm -f room
for old in ../*; do  # of workers that ended an hour ago or with the power, and whose coordinator never came back
  [ "$(find "$old" -maxdepth 0 -mmin +60)" ] || continue
  ls -l /proc/[0-9]*/cwd 2> /dev/null | grep -qF -- "${old#../}" || rm -rf -- "$old"
done
IFS= read -r settings || exit 1
run='"$@" > ready 2> log; s=$?; [ $s = FORGOTTEN ] && rm -rf -- "$PWD" || ln -s -- $s exit'
printf '%s\n' "$settings" | setsid sh -c "$run" sh "$@" > /dev/null 2>&1 &
while [ ! -s ready ] && [ ! -L exit ] && [ "$limit" -gt 0 ]; do sleep 0.2; limit=$((limit - 1)); done
[ -s ready ] && exec cat ready
[ -L exit ] && echo "exit status $(readlink exit)"
tail -c 3000 log
exit NOT_READY
""".replace("NOT_READY", str(NOT_READY)).replace("FORGOTTEN", str(FORGOTTEN))
_TELL = r"""i=0; while [ ! -L exit ] && [ $i -lt 20 ]; do sleep 0.1; i=$((i + 1)); done
[ -L exit ] && [ -e silent ] && printf %s SILENT
[ -L exit ] && echo "exit status $(readlink exit)"
tail -c 3000 log""".replace("SILENT", shlex.quote(SILENT))
_STOP = r"""cd -- "$1" 2>/dev/null || exit 0
there() { [ "$(readlink "/proc/$2/cwd")" = "$PWD" ]; }
[ "$3" = LOST ] && i=0 && while there "$@" && [ $i -lt ENDING ]; do sleep 0.1; i=$((i + 1)); done  # by itself
there "$@" && [ "$3" != TERM ] && : > silent
signal=$3; [ "$signal" = LOST ] && signal=KILL
there "$@" && kill -"$signal" "$2" && i=0 && while there "$@" && [ $i -lt 20 ]; do sleep 0.1; i=$((i + 1)); done
there "$@" && kill -KILL "$2"
TELL
[ "$4" = keep ] || rm -rf -- "$PWD"
""".replace("TELL", _TELL).replace("ENDING", str(round(limits.ENDING_S * 10)))


class RemoteWorker:
    """The worker of one remote device. Its control port is open on the device's own loopback only.

    Args:
        device: a remote one.
        cores: to stay on; empty leaves it to the system.
        token: the run's secret.
        script: `socket_worker` or `rpc_worker`.
        folder: of this run, here: the end of the bridge, and the worker's log when it is lost.
        tunnelled: whether its data port is open on loopback only, too, and stays the same when it is started again.
        loads_torch: whether it loads PyTorch before it is ready.
    """

    def __init__(
        self,
        device: Device,
        cores: Sequence[int],
        token: bytes,
        script: str,
        folder: Path,
        tunnelled: bool = False,
        loads_torch: bool = True,
    ) -> None:
        self.device, self.cores, self._tunnelled = device, tuple(cores), tunnelled
        self.control, self.log = str(folder / f"{device.name}.control"), folder / f"{device.name}.log"
        self.machine = SshDevice(device)
        self._token, self._script, self._loads_torch = token, script, loads_torch
        self.run_id = secrets.token_hex(8)
        self.folder_there = f"{FOLDER}/run/{self.run_id}"
        self.data_port = device.data_port
        self._ready: Ready | None = None
        self._bridge: Bridge | None = None

    def start(self, timeout_s: float) -> Ready:
        """Start it, and wait until it says that it listens.

        Raises:
            TransportError: the device cannot be reached or does not let us in.
            WorkerError: it was not set up, or the worker ended or was silent for too long; with its log.
        """
        status = status_of(self.machine)
        if not status.python or status.code != our_code().hash:
            raise WorkerError(
                f"{self.device.name}: not set up for this version: run `paretopipe setup` with the file of the sweep"
            )
        settings = settings_of(
            self.device,
            self.cores,
            self._token,
            control="127.0.0.1:0",
            loads_torch=self._loads_torch,
            data_host="127.0.0.1" if self._tunnelled else resolve(self.device),
            data_port=self.data_port,
            forgotten_after_s=limits.FORGOTTEN_AFTER_S,
        )
        arguments = ["-m", f"workers.{self._script}", self.device.name]
        threads = str(self.device.threads)
        command = ["env", f"OMP_NUM_THREADS={threads}", f"MKL_NUM_THREADS={threads}"]
        command += python_command(self.device, arguments)
        inner = shlex.join(["sh", str(round(timeout_s * 5)), *command])
        done = self.machine.run(
            ["sh", "-c", f"set -- {shell_path(self.folder_there)} {inner.removeprefix('sh ')}\n{_START}"],
            stdin=settings.line,
            timeout_s=timeout_s + 30,
        )
        if done.returncode:
            said = " | ".join(line.strip() for line in done.stdout.splitlines()[-6:] if line.strip())
            late = (
                ""
                if "exit status" in done.stdout or done.returncode != NOT_READY
                else f" within {timeout_s:.0f} s (ready_timeout_s)"
            )
            words_said = said or done.stderr.strip() or "its log is empty"
            raise WorkerError(f"{self.device.name}: the worker was not ready{late}: {words_said}")
        self._ready = ready = read_ready(done.stdout, self.device.name)
        if self._tunnelled:
            self.data_port = ready.data_port
        if self._bridge is None and (forbidden := self.machine.forwarding_forbidden()):
            raise WorkerError(forbidden)
        if self._bridge is None:
            self._bridge = Bridge(Path(self.control), self._open_channel, self._fetch_log)
        return ready

    def kill(self, silent: bool) -> None:
        """End it, if it still runs and the device answers; its log is fetched."""
        self._end("KILL" if silent else "LOST", keep=True)

    def stop(self) -> None:
        """End it, politely for two seconds, and leave nothing of it on the device.

        Where the device does not answer, the worker ends by itself when nobody has talked to it for a while.
        """
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        self._end("TERM", keep=False)
        self.machine.close()

    def _end(self, signal: str, keep: bool) -> None:
        if self._ready is None:
            return
        words = shlex.join([str(self._ready.pid), signal, "keep" if keep else "remove"])
        script = f"set -- {shell_path(self.folder_there)} {words}\n{_STOP}"
        with contextlib.suppress(TransportError):  # out of reach: it will miss us
            self._note(self.machine.run(["sh", "-c", script], timeout_s=15).stdout)

    def _note(self, said: str) -> None:
        status, _, log = said.partition("\n") if said.startswith(("exit status", SILENT)) else ("", "", said)
        write_ending(self.log, status or "out of reach", log.rstrip() + "\n")

    def _open_channel(self) -> object:
        if self._ready is None:
            raise TransportError(f"{self.device.name}: no worker is up")
        return self.machine.channel_to(int(self._ready.control.rpartition(":")[2]))

    def _fetch_log(self) -> None:
        script = f"cd -- {shell_path(self.folder_there)} || exit 0\n{_TELL}"
        try:
            self._note(self.machine.run(["sh", "-c", script], timeout_s=10).stdout)
        except TransportError as exc:
            write_ending(self.log, f"its log cannot be had: {exc}")
