"""The few Linux calls that Python 3.11 does not offer: namespaces and TUN devices."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_PR_SET_TIMERSLACK = 29


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    _checked(_libc().unshare(flags), "unshare")


def setns(descriptor: int) -> None:
    """Enter the namespace that `descriptor` holds."""
    _checked(_libc().setns(descriptor, 0), "setns")


def precise_timers() -> None:
    """Let the kernel wake this thread within microseconds of the time it asked for."""
    _libc().prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)


def become_root_of_user_namespace() -> None:
    """Enter a new user namespace in which this user is root, as `unshare --user --map-root-user` does."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def new_network() -> int:
    """Enter a new network namespace; it lives while the descriptor returned, or a process in it, does."""
    unshare(CLONE_NEWNET)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_tun(interface: str) -> int:
    """A new TUN device in the present network namespace; packets carry a virtio header of 10 bytes."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError:
        os.close(tun)
        raise
    return tun


def set_segmentation_offload(tun: int, on: bool) -> None:
    """Whether the TUN device takes packets of up to 64 kB, which stand for many on the wire."""
    fcntl.ioctl(tun, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 if on else 0)
