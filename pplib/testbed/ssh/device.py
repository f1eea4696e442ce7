"""A remote device over SSH: run a command there, and put a file there; every wait has a limit."""

from __future__ import annotations

import contextlib
import math
import selectors
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import paramiko

from pplib import limits
from pplib.devices import Device
from pplib.errors import TransportError
from pplib.testbed.ssh.command import (
    AS_ROOT,
    HELD,
    MARKED,
    PIECE_BYTES,
    PUT,
    RUN,
    CommandError,
    Completed,
    new_mark,
    pieces,
    shell_path,
    size_and_digest,
)
from pplib.testbed.ssh.endings import ending
from pplib.testbed.ssh.login import AccessError, Login, Server, Unreachable

MAX_OUTPUT_BYTES = 1 << 20
PROHIBITED = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED


class SshDevice:
    """A remote device. Connects when it is first needed, and again if the connection was lost.

    Calls are safe from several threads: each has a channel of its own on one connection.
    """

    def __init__(self, device: Device, connect_timeout_s: float = limits.SSH_CONNECT_S) -> None:
        self.device, self.name = device, device.name
        self._connect_timeout_s = connect_timeout_s
        self._login: Login | None = None
        self._opening = threading.Lock()

    def open(self) -> None:
        """Connect, unless there is a connection.

        Raises:
            Unreachable: no answer, refused, or not an SSH server.
            AccessError: no key of ours is accepted, or its host key is unknown or has changed.
        """
        self._transport()

    def _transport(self) -> paramiko.Transport:
        with self._opening:
            if self._login is not None and not self._login.transport.is_active():
                self._login.close()
                self._login = None
            if self._login is None:
                self._login = Login(self.device, self._connect_timeout_s)
            return self._login.transport

    def close(self) -> None:
        """Close the connection. What was started detached goes on."""
        with self._opening:
            if self._login is not None:
                self._login.close()
                self._login = None

    def __enter__(self) -> SshDevice:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        timeout_s: float = limits.SSH_RUN_S,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
        check: bool = False,
    ) -> Completed:
        """Run a command to its end; on the device, too, it is ended after `timeout_s`.

        Args:
            command: its words; everybody on the device can read them: a secret goes through `stdin`.
            stdin: what it reads from its standard input.
            timeout_s: how long it may take.
            max_output_bytes: how much it may write to its standard output and error together.
            check: whether an exit status other than 0 is an error.

        Raises:
            Unreachable: the device cannot be reached, or the connection was lost.
            AccessError: the device does not let us in.
            CommandError: it took too long, said too much or, with `check`, failed.
        """
        return self._run(RUN, command, stdin, timeout_s, max_output_bytes, check)

    def channel_to(self, port: int) -> paramiko.Channel:
        """A channel to a port on the device's own loopback.

        Raises:
            Unreachable: the device cannot be reached, or nobody listens there.
            AccessError: the device does not let us in, or its server forbids forwarding.
        """
        try:
            return self._transport().open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=self._connect_timeout_s
            )
        except (paramiko.SSHException, OSError, EOFError) as exc:
            if isinstance(exc, paramiko.ChannelException) and exc.code == PROHIBITED:
                raise AccessError(
                    f"{self.name}: its SSH server forbids what our control connection goes through: set "
                    "`AllowTcpForwarding yes` in its /etc/ssh/sshd_config (and look for `DisableForwarding`, `Match` "
                    "and `restrict` in authorized_keys), then `sudo systemctl restart ssh`"
                ) from exc
            raise Unreachable(f"{self.name}: nobody answers at its port {port}: {exc}") from exc

    def forwarding_forbidden(self) -> str:
        """Why its SSH server lets no connection to a port of the device through, and what to do; empty if it does.

        Raises:
            Unreachable: the device cannot be reached.
        """
        try:
            self.channel_to(1).close()
        except AccessError as exc:
            return str(exc)
        except Unreachable:
            self.open()  # nobody listens there, as expected
        return ""

    def hold(self, command: Sequence[str]) -> paramiko.Channel:
        """Start a command that goes on until its channel is closed; it must end when its standard input does.

        Raises:
            Unreachable, AccessError: as for `run`.
        """
        transport = self._transport()
        mark = new_mark()
        try:
            channel = transport.open_session(timeout=self._connect_timeout_s)
            channel.exec_command(shlex.join(["sh", "-c", HELD, "sh", mark, "sh", "-c", RUN, "sh", *command]))
            for receive in (channel.recv, channel.recv_stderr):
                self._skip_to(mark, receive, channel)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise Unreachable(f"{self.name}: the connection was lost: {exc}") from exc
        return channel

    def _skip_to(self, mark: str, receive: Callable[[int], bytes], channel: paramiko.Channel) -> None:
        """Read up to the mark and no further: what comes then is the command's."""
        channel.settimeout(self._connect_timeout_s)
        said = bytearray()
        while not said.endswith(mark.encode()):
            piece = receive(1)
            if not piece or len(said) > MAX_OUTPUT_BYTES:
                raise self._never_ran(said.decode(errors="replace"))
            said += piece
        channel.settimeout(None)

    def _never_ran(self, said: str) -> CommandError:
        return CommandError(
            f"{self.name}: the login ends before our command runs: a start-up file of its shell (~/.bashrc, "
            f"~/.zshenv, ...) runs something else, or the user may not log in; it said: "
            f"{' '.join(said.split())[-300:] or 'nothing'}"
        )

    def server(self) -> Server:
        """The SSH server that we are logged in to, as it proved to be.

        Raises:
            Unreachable, AccessError: as for `run`.
        """
        self.open()
        assert self._login is not None
        return self._login.server

    def as_root(self, command: Sequence[str]) -> Completed:
        """Run a command as root, through `sudo -n` where the user is not root: the `Runner` of shaping.

        Never raises: a device that does not answer is exit status 127, with the reason on standard error.
        """
        try:
            done = self._run(AS_ROOT, command, b"", limits.SSH_RUN_S, MAX_OUTPUT_BYTES, False)
        except TransportError as exc:
            return Completed(127, "", str(exc))
        if done.returncode and ("sudo:" in done.stderr or "nor sudo" in done.stderr):
            hint = (
                f"{self.name}: Operation not permitted: let the user run tc as root without a password "
                "(`sudo visudo`: `USER ALL=(root) NOPASSWD: ALL`), or log in as root"
            )
            return Completed(done.returncode, done.stdout, f"{done.stderr.strip()}; {hint}")
        return done

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o644, timeout_s: float = 600.0) -> int:
        """Put a file on the device: under another name first, then size and SHA-256 are checked there.

        Args:
            source: a file here, or the content.
            target: path on the device; `~/` is the user's home there. Folders are made.
            mode: its permissions.
            timeout_s: how long it may take.

        Returns:
            Its size in bytes.

        Raises:
            Unreachable: as for `run`.
            CommandError: it did not arrive whole, or cannot be written there (no space, no permission).
        """
        size, digest = size_and_digest(source)
        script = f"set -- {shell_path(target)} {size} {digest} {mode:o}\n{PUT}"
        self.run(["sh", "-c", script], stdin=pieces(source), timeout_s=timeout_s, check=True)
        return size

    def _run(
        self,
        wrapper: str,
        command: Sequence[str],
        stdin: bytes | Iterable[bytes],
        timeout_s: float,
        max_output_bytes: int,
        check: bool,
    ) -> Completed:
        mark = new_mark()
        limited = ["sh", "-c", MARKED, "sh", mark, str(math.ceil(timeout_s)), "sh", "-c", wrapper, "sh", *command]
        what = shlex.join(command).splitlines()[0][:80] if command else ""
        transport, start = self._transport(), time.monotonic()
        # Some of paramiko's waits have no limit of their own. A device that is past this one has not even
        # ended the command by its own limit: it, or the way to it, is gone, and so is the connection.
        watch = threading.Timer(timeout_s + limits.SSH_GRACE_S, transport.close)
        watch.daemon = True
        watch.start()
        try:
            with contextlib.closing(transport.open_session(timeout=self._connect_timeout_s)) as channel:
                channel.exec_command(shlex.join(limited))
                fed = pieces(stdin) if isinstance(stdin, bytes) else stdin
                threading.Thread(target=_feed, args=(channel, fed), name=f"to {self.name}", daemon=True).start()
                out, err = self._collect(channel, what, max_output_bytes)
                status = channel.recv_exit_status()
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise Unreachable(
                f"{self.name}: {self._lost(start + timeout_s + limits.SSH_GRACE_S)} during `{what}`: {exc}"
            ) from exc
        finally:
            watch.cancel()
        if status < 0:
            raise Unreachable(f"{self.name}: {self._lost(start + timeout_s + limits.SSH_GRACE_S)} during `{what}`")
        if status in (124, 137) and time.monotonic() - start >= timeout_s:
            raise CommandError(f"{self.name}: `{what}` did not end within {timeout_s:.0f} s and was ended there")
        before, marked, answer = out.decode(errors="replace").partition(mark)
        if not marked:
            raise self._never_ran(before + err.decode(errors="replace").partition(mark)[0])
        done = Completed(status, answer, err.decode(errors="replace").partition(mark)[2])
        if check and status:
            said = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-1000:]
            raise CommandError(f"{self.name}: `{what}` failed ({ending(status)}): {said or 'it said nothing'}")
        return done

    def _lost(self, end: float) -> str:
        if time.monotonic() < end:
            return "the connection was lost"
        return "no answer in time (is the device still on, and the network up?)"

    def _collect(self, channel: paramiko.Channel, what: str, max_output_bytes: int) -> tuple[bytes, bytes]:
        """What the command says on its two streams, until both have ended and so has the command."""
        out, err = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(channel.fileno(), selectors.EVENT_READ)
            while True:
                ended = channel.eof_received or channel.closed
                while channel.recv_ready():
                    out += channel.recv(PIECE_BYTES)
                while channel.recv_stderr_ready():
                    err += channel.recv_stderr(PIECE_BYTES)
                if len(out) + len(err) > max_output_bytes:
                    raise CommandError(f"{self.name}: `{what}` wrote more than {max_output_bytes} bytes: it was left")
                if ended:
                    channel.status_event.wait()  # set when the channel closes, whatever the reason
                    return bytes(out), bytes(err)
                selector.select()


def _feed(channel: paramiko.Channel, pieces: Iterable[bytes]) -> None:
    # A command that ended without reading everything closes the channel: how it ended is read elsewhere.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        for piece in pieces:
            channel.sendall(piece)
        channel.shutdown_write()
