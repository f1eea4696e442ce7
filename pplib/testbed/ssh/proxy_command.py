"""A ProxyCommand of ~/.ssh/config: a process whose two pipes are one real socket.

Paramiko's own class reads pipes and never notices that the process has ended; a socket does.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tempfile

from pplib import limits
from pplib.errors import TransportError


class ProxyProcess:
    """The process, from the start to `close`. It sees its input end when this process does.

    Args:
        command: the words of the configuration file, with %h, %p and %r replaced already.
        device: for errors.

    Raises:
        TransportError: it cannot be started.
    """

    def __init__(self, command: str, device: str) -> None:
        self.command = command
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self.socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    shlex.split(command),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._said,
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
            except (OSError, ValueError) as exc:
                self.socket.close()
                self._said.close()
                raise TransportError(f"{device}: the ProxyCommand `{command}` of ~/.ssh/config failed: {exc}") from exc

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        size = self._said.seek(0, 2)
        self._said.seek(max(0, size - 500))
        return " ".join(self._said.read().decode(errors="replace").split())

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        try:
            self._process.wait(limits.PROXY_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(limits.PROXY_END_S)
        self._said.close()
