"""Link profiles in the words of `tc`: queueing disciplines for what leaves an interface. Text only.

Not by pyroute2: the same words go to a device over SSH, where root has `tc` and no Python package of ours.
"""

from __future__ import annotations

import math

from pplib.links import Direction, queue_bytes

Command = list[str]

PACKET_BYTES = 1500
MIN_BURST_BYTES = 3_200  # two Ethernet frames: tbf drops what does not fit into its burst
TICK_S = 0.001  # a burst of this length keeps tbf exact where the kernel's timer ticks are coarse


def egress_commands(interface: str, direction: Direction, parent: str = "root", major: int = 0x78) -> list[Command]:
    """The commands that shape what leaves `interface` below `parent`: netem, and below it tbf.

    The order is the one of tc-netem(8): netem delays and loses, then tbf limits the rate, with the
    queue of `queue_bytes` in front of it. `major` and `major + 1` become handles.

    >>> for command in egress_commands("eth0", Direction(delay_s=0.2, rate_bit_s=5e6)):
    ...     print(" ".join(command))
    tc qdisc add dev eth0 root handle 78: netem limit 1000 delay 200000us
    tc qdisc add dev eth0 parent 78:1 handle 79: tbf rate 5000000bit burst 3200b limit 312500b
    """
    where = ["root"] if parent == "root" else ["parent", parent]
    commands = []
    if direction.delay_s or direction.jitter_s or direction.loss:
        commands.append(["tc", "qdisc", "add", "dev", interface, *where, "handle", f"{major:x}:", *_netem(direction)])
        where = ["parent", f"{major:x}:1"]
    if direction.rate_bit_s is not None:
        commands.append(["tc", "qdisc", "add", "dev", interface, *where, "handle", f"{major + 1:x}:", *_tbf(direction)])
    return commands


def _netem(direction: Direction) -> list[str]:
    words = ["netem", "limit", str(_netem_packets(direction))]
    if direction.delay_s or direction.jitter_s:
        words += ["delay", f"{round(direction.delay_s * 1e6)}us"]
    if direction.jitter_s:
        words += [f"{round(direction.jitter_s * 1e6)}us"]
    if direction.loss:
        words += ["loss", "random", f"{direction.loss * 100:.6g}%"]
    return words


def _netem_packets(direction: Direction) -> int:
    """Packets netem may hold: the ones on their way at the full rate, twice over for small ones."""
    if direction.rate_bit_s is None:
        return 100_000
    under_way = direction.rate_bit_s / 8 * (direction.delay_s + direction.jitter_s)
    return max(1000, math.ceil(under_way / PACKET_BYTES) * 2)


def _tbf(direction: Direction) -> list[str]:
    assert direction.rate_bit_s is not None
    burst = max(MIN_BURST_BYTES, math.ceil(direction.rate_bit_s / 8 * TICK_S))
    return [
        "tbf",
        "rate",
        f"{round(direction.rate_bit_s)}bit",
        "burst",
        f"{burst}b",
        "limit",
        f"{queue_bytes(direction)}b",
    ]
