"""Logging in to a device over SSH: as ~/.ssh/config says, its host key checked, every wait limited."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import shlex
import socket
from pathlib import Path
from typing import Any

import fabric
import msgspec
import paramiko

from pplib import limits
from pplib.devices import Device
from pplib.errors import TransportError
from pplib.files.expanded import expanded
from pplib.testbed.ssh.config import ssh_config
from pplib.testbed.ssh.known_hosts import AUTHORITY, REVOKED, Marked, load_known_hosts
from pplib.testbed.ssh.proxy_command import ProxyProcess

# Paramiko's threads report what also reaches us as an exception; without a handler it lands on the screen.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Unreachable(TransportError):
    """The device does not answer now, or the connection to it was lost; it may be back in a while."""


class AccessError(TransportError):
    """The device does not let us in, or is not the machine we know: trying again changes nothing."""


class _UnknownHostKey(paramiko.SSHException):  # type: ignore[misc]
    """A host shows a key that is not known; `said` are the marked lines of known_hosts that speak of it."""

    def __init__(self, known_as: str, key: paramiko.PKey, said: list[Marked]) -> None:
        super().__init__(f"{known_as} is not in known_hosts")
        self.known_as, self.key, self.said = known_as, key, said


class _Reject(paramiko.RejectPolicy):  # type: ignore[misc]
    """Refuses a host whose key is not known, and keeps the key it showed for the error message."""

    def __init__(self, marked: list[Marked]) -> None:
        self._marked = marked

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKey(hostname, key, [one for one in self._marked if one.is_for(hostname)])


class Server(msgspec.Struct, frozen=True):
    """An SSH server: whom we are there, the port, and the public half of its host key."""

    user: str
    port: int
    host_key: str


class Login:
    """An open connection to a device, and whatever it goes through.

    Host keys are compared with ~/.ssh/known_hosts, /etc/ssh/ssh_known_hosts and the UserKnownHostsFile
    of ~/.ssh/config, also those of machines on the way (ProxyJump); an unknown or another key is an
    error, never a question. Keys come from the device file, ~/.ssh/config, the agent and ~/.ssh.

    Args:
        device: a remote device.
        timeout_s: limit of each step: connecting, the server's greeting, proving who we are.

    Raises:
        Unreachable: no answer, refused, or not an SSH server.
        AccessError: no key of ours is accepted, or its host key is unknown or has changed.
    """

    def __init__(self, device: Device, timeout_s: float = limits.SSH_CONNECT_S) -> None:
        self._open: list[Any] = []
        self._device = device
        self._limits = {"banner_timeout": timeout_s, "auth_timeout": timeout_s, "channel_timeout": timeout_s}
        self._timeout_s = math.ceil(timeout_s)
        connection = fabric.Connection(
            device.host, config=fabric.Config(ssh_config=ssh_config(device)), connect_timeout=self._timeout_s
        )
        self._at = connection
        try:
            self._connect(connection, own_key=device.key)
        except (paramiko.SSHException, OSError, EOFError, ValueError) as exc:
            words = self._proxy_words()
            self.close()
            raise _explain(exc, device, self._at, words) from exc
        except BaseException:
            self.close()
            raise
        self.transport: paramiko.Transport = connection.client.get_transport()
        self.transport.set_keepalive(limits.SSH_KEEPALIVE_S)
        key = self.transport.get_remote_server_key()
        self.server = Server(connection.user, int(connection.port), f"{key.get_name()} {key.get_base64()}")
        for client in [one for one in self._open if isinstance(one, paramiko.SSHClient)]:
            _give_up_when_lost(client.get_transport().sock)

    def _connect(self, connection: fabric.Connection, own_key: str | None = None) -> None:
        """Open `connection`, and first those it goes through, each with its host key checked."""
        client = connection.client
        names = ["~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"]
        names += shlex.split(connection.ssh_config.get("userknownhostsfile", ""))
        marked = load_known_hosts(client, [Path(name).expanduser() for name in names])
        client.set_missing_host_key_policy(_Reject(marked))
        keys = connection.connect_kwargs.get("key_filename", [])
        if own_key is not None:
            keys = [str(expanded(own_key)), *keys]
        connection.connect_timeout = self._timeout_s
        connection.connect_kwargs = {
            **self._limits,
            "key_filename": [key for key in keys if Path(key).is_file()],
            "look_for_keys": own_key is None,
        }
        self._open.append(client)
        if isinstance(connection.gateway, str):
            proxy = ProxyProcess(connection.gateway, self._device.name)
            self._open.append(proxy)
            connection.gateway = None
            connection.connect_kwargs["sock"] = proxy.socket
        elif connection.gateway:
            self._connect(connection.gateway)
        self._at = connection
        connection.open()

    def _proxy_words(self) -> str:
        return " ".join(one.last_words() for one in self._open if isinstance(one, ProxyProcess))

    def close(self) -> None:
        """Close it and what it goes through."""
        for one in self._open:
            with contextlib.suppress(OSError, EOFError):
                one.close()
        self._open = []


def _give_up_when_lost(sock: object) -> None:
    """Let the kernel end a connection whose other end is gone, as when a device loses its power."""
    if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.SSH_LOST_S * 1e3))


def _explain(exc: Exception, device: Device, connection: fabric.Connection, proxy_words: str) -> TransportError:
    name, where = device.name, f"{connection.host}:{connection.port}"
    login = f"ssh -p {connection.port} {connection.user}@{device.host}"
    if isinstance(exc, _UnknownHostKey):
        shown = f"{exc.key.get_name()} {exc.key.get_base64()}"
        revoked = [one.where for one in exc.said if one.marker == REVOKED and one.key == shown]
        if revoked:
            return AccessError(
                f"{name}: it shows the host key {_shown(exc.key)}, which is revoked ({revoked[0]}): it may be another "
                "machine; give the device a new host key, or remove that line if it is wrong"
            )
        vouched = [one.where for one in exc.said if one.marker == AUTHORITY]
        if vouched:
            return AccessError(
                f"{name}: its host key {_shown(exc.key)} is in no known_hosts file. A certificate authority may vouch "
                f"for it ({vouched[0]}), but our SSH library does not check certificates of hosts: the key itself must "
                f"be known too; {_how_to_trust(exc.known_as, exc.key, login)}"
            )
        return AccessError(
            f"{name}: its host key is in no known_hosts file, so it may be another machine. It shows "
            f"{_shown(exc.key)}; {_how_to_trust(exc.known_as, exc.key, login)}"
        )
    if isinstance(exc, paramiko.BadHostKeyException):
        known_as = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
        return AccessError(
            f"{name}: its host key has changed, from {_shown(exc.expected_key)} to {_shown(exc.key)}: either the "
            "device was installed anew, or another machine answers in its place. If it was installed anew, remove "
            f"the old key with `ssh-keygen -R '{known_as}'`; then {_how_to_trust(known_as, exc.key, login)}"
        )
    if isinstance(exc, paramiko.AuthenticationException) and "timeout" in str(exc).lower():
        return Unreachable(f"{name}: {where} did not answer in time while we proved who we are: is it overloaded?")
    if isinstance(exc, paramiko.AuthenticationException) or "No authentication methods" in str(exc):
        tried = device.key or "those of ~/.ssh/config, of the agent and of ~/.ssh"
        return AccessError(
            f"{name}: {connection.user}@{where} accepts none of our keys ({tried}): take a public key to it with "
            f"`ssh-copy-id -p {connection.port} {connection.user}@{device.host}`; a key with a passphrase must be "
            f"in the agent (`ssh-add`). It said: {exc}"
        )
    if isinstance(exc, socket.gaierror):
        return Unreachable(
            f"{name}: no address is known for {connection.host!r} ({exc.strerror}): is the device on, and the name "
            "right? Its IPv4 address is as good as a name"
        )
    if proxy_words:
        return Unreachable(
            f"{name}: {where} cannot be reached through the ProxyCommand of ~/.ssh/config: {proxy_words}"
        )
    if isinstance(exc, OSError):
        return Unreachable(f"{name}: {where} {_network_words(exc)}")
    return Unreachable(
        f"{name}: {where} answers, but opens no SSH connection ({exc or 'it closed the connection'}): is it an SSH "
        f"server, and not overloaded? `{login}` shows more"
    )


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _how_to_trust(known_as: str, key: paramiko.PKey, login: str) -> str:
    kind = key.get_name().removeprefix("ssh-").partition("-")[0]
    host, _, port = known_as.removeprefix("[").partition("]:")
    return (
        f"`ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub` on the device prints the true one. If they are equal, run "
        f"`{login}` here and answer yes, or `ssh-keyscan -t {kind} -p {port or 22} {host} >> ~/.ssh/known_hosts`"
    )


def _network_words(exc: OSError) -> str:
    codes = {exc.errno}
    if isinstance(exc, paramiko.ssh_exception.NoValidConnectionsError):
        codes = {one.errno for one in exc.errors.values()}
    if errno.ECONNREFUSED in codes:
        return (
            "refused the connection: no SSH server listens there: on a Raspberry Pi, `sudo systemctl enable --now ssh` "
            "starts it; and is `ssh_port` right?"
        )
    if isinstance(exc, TimeoutError):
        return "did not answer in time: is it on, on this network, and not behind a firewall?"
    return f"cannot be reached ({exc}): is it on, and on this network?"
