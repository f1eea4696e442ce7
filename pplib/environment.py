"""The few settings that belong to a machine and not to an experiment: `.env` and the environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
from dotenv import dotenv_values

from pplib import ROOT
from pplib.decode import decode
from pplib.devices import Port
from pplib.errors import ConfigError

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
NAMES = ("MASTER_ADDR", "MASTER_PORT", *INTERFACE_VARIABLES, "CIFAR10_PATH")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What `.env` may say; None where it says nothing.

    `master_addr`, `master_port`: where an rpc or gloo group meets (default: the first device, a free port).
    `gloo_socket_ifname`, `tp_socket_ifname`: the interface rpc binds to (default: the one that has
    the device's address). `cifar10_path`: the folder that holds `cifar-10-batches-py`.
    """

    master_addr: str | None = None
    master_port: Port | None = None
    gloo_socket_ifname: str | None = None
    tp_socket_ifname: str | None = None
    cifar10_path: str | None = None

    @property
    def interface_variables(self) -> dict[str, str]:
        """The variables by which PyTorch RPC is told its interface, as far as they are set."""
        named = zip(INTERFACE_VARIABLES, (self.gloo_socket_ifname, self.tp_socket_ifname), strict=True)
        return {name: value for name, value in named if value}


def load_environment(path: Path | None = None) -> Environment:
    """Read `.env` of the checkout (or `path`); variables that are set win over the file.

    Raises:
        ConfigError: a port that is no port, or an interface this machine does not have.
    """
    file = path or ROOT / ".env"
    said: dict[str, str | None] = dict(dotenv_values(file)) if file.is_file() else {}
    values: dict[str, object] = {}
    for name in NAMES:
        text = (os.environ.get(name) or said.get(name) or "").strip()
        if text:
            values[name.lower()] = text
    port = values.get("master_port")
    if isinstance(port, str):
        if not port.isdecimal() or not 0 < int(port) <= 65535:
            raise ConfigError(f"MASTER_PORT: expected a port from 1 to 65535, got {port!r}: see {file}")
        values["master_port"] = int(port)
    interfaces = [name for _, name in socket.if_nameindex()]
    for key in ("gloo_socket_ifname", "tp_socket_ifname"):
        if key in values and values[key] not in interfaces:
            raise ConfigError(
                f"{key.upper()}: expected one of {', '.join(interfaces)}, got {values[key]!r}: see {file}"
            )
    return decode(values, Environment, f"{file}: ")
