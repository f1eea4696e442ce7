"""The user-space link engine: moves packets between the TUN devices of a chain, through delay lines.

One process serves the whole chain. A packet from device i to device j passes hops i .. j-1 one after
the other, each with its own queue, rate and delay. Links that need no fine grain (unlimited or fast,
and without loss) let the kernel hand over up to 64 kB at once, which is counted on the wire as the
segments it stands for; slow or lossy ones get every packet by itself.
"""

from __future__ import annotations

import gc
import os
import select
import struct
import time
from collections.abc import Callable, Sequence

from pplib.links import EARLY_S, LinkProfile
from pplib.testbed.emulation.delay_line import DelayLine
from pplib.testbed.emulation.syscalls import precise_timers, set_segmentation_offload

HEADER_BYTES = 10  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
OFFLOAD_FROM_BIT_S = 150e6
MAX_READ = HEADER_BYTES + 65_536
BATCH = 32
WAKE_UP_S = 0.0001  # what a wake-up and the kernel's part of the way take; sleeping until the very moment is late
_GSO = struct.Struct("=BBHHHH")

Lines = dict[int, DelayLine[tuple[int, bytes]]]


def coarse(profile: LinkProfile) -> bool:
    """Whether packets may be handed over 64 kB at a time under this profile."""
    ways = (profile.forward, profile.backward)
    return all(not way.loss and (way.rate_bit_s is None or way.rate_bit_s >= OFFLOAD_FROM_BIT_S) for way in ways)


def wire_bytes(packet: bytes) -> int:
    """The bytes of IP that a packet read from a TUN device is on the wire, repeated headers included."""
    size = len(packet) - HEADER_BYTES
    fields: tuple[int, ...] = _GSO.unpack_from(packet)
    _, gso_type, _, segment, checksum_start, _ = fields
    if not gso_type or not segment:
        return size
    # hdr_len is only a hint; the TCP header starts where the checksum does, and holds its own length.
    header: int = checksum_start + 4 * (packet[HEADER_BYTES + checksum_start + 12] >> 4)
    return size + header * (-(-(size - header) // segment) - 1)


class Forwarder:
    """The hops between the TUN devices `tuns`, device i having the address that ends in i + 1."""

    def __init__(self, tuns: Sequence[int], profile: LinkProfile, seed: int) -> None:
        self._tuns, self._seed = list(tuns), seed
        self._device = {tun: i for i, tun in enumerate(self._tuns)}
        hops = range(len(self._tuns) - 1)
        # Forward hop i is left by packets that arrive at device i + 1; backward hop i at device i.
        self._forward: Lines = {i: DelayLine(profile.forward, "") for i in hops}
        self._backward: Lines = {i: DelayLine(profile.backward, "") for i in hops}
        self.set_profile(profile)

    def set_profile(self, profile: LinkProfile) -> None:
        """Shape every hop by `profile` from now on; noise starts again from the seed."""
        for lines, way, word in (
            (self._forward, profile.forward, "forward"),
            (self._backward, profile.backward, "backward"),
        ):
            for hop, line in lines.items():
                line.configure(way, f"{self._seed} {word} {hop}")
        for tun in self._tuns:
            set_segmentation_offload(tun, coarse(profile))

    def run(self, control: int, on_control: Callable[[], bool]) -> None:
        """Forward until `on_control`, called whenever `control` can be read, says False."""
        precise_timers()
        gc.disable()  # nothing here makes cycles, and a collection would delay packets
        watched = [control, *self._tuns]
        while True:
            due = self._deliver()
            timeout = None if due is None else max(0.0, due - WAKE_UP_S - time.monotonic())
            ready, _, _ = select.select(watched, [], [], timeout)
            for descriptor in ready:
                if descriptor != control:
                    self._take(descriptor)
                elif not on_control():
                    return

    def _take(self, tun: int) -> None:
        """Read a batch of packets from a device and start each on its way."""
        source = self._device[tun]
        for _ in range(BATCH):
            try:
                packet = os.read(tun, MAX_READ)
            except BlockingIOError:
                return
            target = self._target(packet)
            if target is not None and target != source:
                self._enter(source, target, time.monotonic(), wire_bytes(packet), packet)

    def _target(self, packet: bytes) -> int | None:
        """The device that an IPv4 packet is for; None for anything else, which ends here."""
        if len(packet) < HEADER_BYTES + 20 or packet[HEADER_BYTES] >> 4 != 4:
            return None
        device = packet[HEADER_BYTES + 19] - 1
        return device if 0 <= device < len(self._tuns) else None

    def _enter(self, at: int, target: int, now_s: float, size: int, packet: bytes) -> None:
        """Let a packet that is at device `at` take the next hop towards `target`."""
        while at != target:
            line, after = (self._forward[at], at + 1) if target > at else (self._backward[at - 1], at - 1)
            if not line.transparent:
                line.push(now_s, size, (target, packet))
                return
            at = after
        self._write(target, packet)

    def _deliver(self) -> float | None:
        """Move on every packet that is due; when the next one is, None if none is under way."""
        pending = True
        while pending:
            pending = False
            # In an order that lets a packet due at several hops pass them in one go.
            for hop in self._forward:
                pending |= self._arrive(self._forward[hop], hop + 1)
            for hop in reversed(self._backward):
                pending |= self._arrive(self._backward[hop], hop)
        dues = [
            line.next_due_s
            for lines in (self._forward, self._backward)
            for line in lines.values()
            if line.next_due_s is not None
        ]
        return min(dues, default=None)

    def _arrive(self, line: DelayLine[tuple[int, bytes]], device: int) -> bool:
        """Take a batch of due packets off a line that ends at `device`; whether there may be more."""
        now_s = time.monotonic()
        until_s = now_s + WAKE_UP_S
        for _ in range(BATCH):
            arrived = line.pop(until_s)
            if arrived is None:
                return False
            until_s = now_s + EARLY_S  # what is due soon after one that is due leaves with it
            due_s, size, (target, packet) = arrived
            # Counted from when it was due: being late at one hop does not add up over hops.
            self._enter(device, target, due_s, size, packet)
        return True

    def _write(self, target: int, packet: bytes) -> None:
        try:
            os.write(self._tuns[target], packet)
        except OSError:
            # The interface is down or out of memory: lost, as on a real wire. TCP sends it again.
            return
