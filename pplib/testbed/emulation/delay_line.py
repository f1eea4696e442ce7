"""One direction of an emulated link, as arithmetic: when does a packet that enters now come out, if at all?

No clock, no threads, no sockets: times are handed in, so that tests use times of their own.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Generic, TypeVar

from pplib.links import UNLIMITED_BYTES, Direction, queue_bytes

T = TypeVar("T")


class DelayLine(Generic[T]):
    """Packets under way in one direction, in order.

    A packet is first lost or not, drawn from the seed; then it waits for the rate in a queue of
    `queue_bytes`, dropped if that is full (drop-tail); then it travels for delay_s, plus a draw from
    +- jitter_s. Packets never overtake: one whose jitter would let it arrive before the one in front
    arrives together with it, as on radio links, which deliver in order. So jitter is seen in full by
    packets further apart than 2 x jitter_s, and TCP is not punished for an order no link has.
    Without a rate, packets under way are bounded by 64 MiB.
    """

    def __init__(self, direction: Direction, seed: str) -> None:
        self._packets: deque[tuple[float, int, T]] = deque()
        self._free_at = self._last_due = 0.0
        self._held_bytes = 0
        self.dropped = self.lost = 0
        self.configure(direction, seed)

    def configure(self, direction: Direction, seed: str) -> None:
        """Change the direction for packets from now on; those under way arrive as they would have."""
        self.direction = direction
        self._random = random.Random(seed)  # reproducible noise, no secret
        self._queue_bytes = queue_bytes(direction)
        self._s_per_byte = 0.0 if direction.rate_bit_s is None else 8 / direction.rate_bit_s
        self._free_at = 0.0

    @property
    def transparent(self) -> bool:
        """Whether a packet that enters now comes out now."""
        return not self._packets and not self.direction.shaped

    @property
    def next_due_s(self) -> float | None:
        """When the first packet under way arrives; None if there is none."""
        return self._packets[0][0] if self._packets else None

    def push(self, now_s: float, wire_bytes: int, packet: T) -> bool:
        """Let a packet enter at `now_s`; False if it was lost or dropped."""
        way = self.direction
        if way.loss and self._random.random() < way.loss:
            self.lost += 1
            return False
        due = now_s
        if self._s_per_byte:
            start = self._free_at if self._free_at > now_s else now_s
            # The packet being sent counts as waiting, so one larger than the queue still gets through when idle.
            if (start - now_s) > self._queue_bytes * self._s_per_byte:
                self.dropped += 1
                return False
            due = self._free_at = start + wire_bytes * self._s_per_byte
        elif self._held_bytes + wire_bytes > UNLIMITED_BYTES:
            self.dropped += 1
            return False
        due += way.delay_s
        if way.jitter_s:
            due += self._random.uniform(-way.jitter_s, way.jitter_s)
        if due < self._last_due:
            due = self._last_due
        self._last_due = due
        self._held_bytes += wire_bytes
        self._packets.append((due, wire_bytes, packet))
        return True

    def pop(self, now_s: float) -> tuple[float, int, T] | None:
        """The next packet that has arrived by `now_s`: (when it was due, its bytes, itself)."""
        if not self._packets or self._packets[0][0] > now_s:
            return None
        arrived = self._packets.popleft()
        self._held_bytes -= arrived[1]
        return arrived
