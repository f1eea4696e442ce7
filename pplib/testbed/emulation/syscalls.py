"""The few Linux calls that Python 3.11 does not offer: namespaces and TUN devices.

Python 3.12 has `unshare` and `setns`. pyroute2 has namespaces and links too, but neither the timers and the resident
files of a process nor offload of a TUN device, which are most of this.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_PR_SET_NAME, _PR_SET_TIMERSLACK = 15, 29
_MADV_POPULATE_READ = 22
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


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


def name_process(name: str) -> None:
    """How this process is called where processes are listed; 15 bytes of it."""
    _libc().prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def resident_files() -> list[tuple[int, int]]:
    """What of the files that this process has mapped is in its resident memory: (address, bytes) of each piece."""
    page, found = os.sysconf("SC_PAGE_SIZE"), list[tuple[int, int]]()
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, _, _, inode, *_ = line.split()
            begin, end = (int(one, 16) for one in span.split("-"))
            if inode == "0" or "r" not in rights:
                continue
            pages.seek(begin // page * 8)
            entries = array.array("Q", pages.read((end - begin) // page * 8))
            for number, entry in enumerate(entries):
                at = begin + number * page
                if not entry >> 63:  # not present
                    continue
                if found and sum(found[-1]) == at:
                    found[-1] = (found[-1][0], found[-1][1] + page)
                else:
                    found.append((at, page))
    return found


def make_resident(pieces: Sequence[tuple[int, int]]) -> None:
    """Have pieces of mapped files in this process's resident memory, from Linux 5.14 on; no disk is read."""
    call = _libc().madvise
    for address, length in pieces:
        call(ctypes.c_void_p(address), ctypes.c_size_t(length), _MADV_POPULATE_READ)


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


def loopback_up() -> None:
    """Bring up the loopback interface of the present network namespace, which is down in a new one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        (flags,) = struct.unpack("16xH22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


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
