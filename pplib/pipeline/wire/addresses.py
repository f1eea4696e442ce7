"""This machine's addresses: which interface has one, where this process listens, and what it is connected to."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Container

import psutil

from pplib import limits
from pplib.errors import TransportError
from pplib.pipeline.wire.connection import notice_a_dead_link


def address_of(host: str) -> str:
    """The IPv4 address of a host by its name, or the address itself.

    Raises:
        TransportError: none is known.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as exc:
        raise TransportError(f"no address is known for {host!r}: {exc}: name it in the device file") from exc


def interface_of(address: str) -> str:
    """The network interface that holds `address`; all of 127.0.0.0/8 is on the one that holds 127.0.0.1.

    Raises:
        TransportError: this machine has no such address.
    """
    wanted = address_of(address)
    wanted = "127.0.0.1" if ipaddress.ip_address(wanted).is_loopback else wanted
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == wanted for one in addresses):
            return name
    raise TransportError(f"no network interface of this machine has the address {address}")


def listening() -> set[tuple[str, int]]:
    """Every address and port at which this process listens for TCP."""
    return {
        (one.laddr.ip, one.laddr.port)
        for one in psutil.Process().net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }


def check_listening(before: set[tuple[str, int]], host: str) -> None:
    """Make sure that what listens now, and did not `before`, does so on the address of `host` alone.

    Raises:
        TransportError: it is told where it listens.
    """
    wanted = address_of(host)
    for address, port in sorted(listening() - before):
        loopback = ipaddress.ip_address(wanted).is_loopback and ipaddress.ip_address(address).is_loopback
        if address != wanted and not loopback:
            raise TransportError(
                f"PyTorch listens on {address}:{port}, expected {wanted} only: give the device's `data_host` an "
                "interface whose first address it is, or set TP_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in .env"
            )


def notice_dead_links(hosts: Container[str]) -> None:
    """Have this process's connections to `hosts` end when the link is gone: PyTorch has no option for that, sockets do.

    They may have TCP_USER_TIMEOUT, too, which what is under way needs: PyTorch's threads always take what comes.
    """
    for one in psutil.Process().net_connections("tcp"):
        if one.fd < 0 or not one.raddr or one.raddr.ip not in hosts:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one.fd)) as sock:  # it may have been closed
            notice_a_dead_link(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.DEAD_LINK_S * 1000)
