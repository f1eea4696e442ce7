"""Link profiles: what a network between two devices is like, per direction, and the file that names them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import msgspec

from pplib.decode import decode, shown
from pplib.errors import ConfigError, nearest
from pplib.files.names import check_name
from pplib.files.yaml_file import read_yaml

MOST_DELAY_S = 1.0  # the handshake of two workers has 5 s for its round trips

WireKind = Literal["float32", "float16", "int8"]
Compression = Literal["", "zstd", "lz4"]
WIRES = tuple(f"{kind}+{how}" if how else kind for kind in get_args(WireKind) for how in get_args(Compression))
"""How an activation may cross a hop; `float32` is as it is, whatever its type."""

INT8_STEPS = 255
"""Between the smallest and the largest value that int8 has of a channel."""


class Direction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One direction of a link.

    Attributes:
        delay_s: one-way delay added to every packet; a round trip sees the sum of both directions.
        jitter_s: the delay of each packet is drawn evenly from delay_s - jitter_s to delay_s + jitter_s.
        loss: probability that a packet is lost, each by itself.
        rate_bit_s: what the link carries, headers of IP and TCP included; None is unlimited.
    """

    delay_s: Annotated[float, msgspec.Meta(ge=0, le=MOST_DELAY_S)] = 0.0
    jitter_s: Annotated[float, msgspec.Meta(ge=0, le=MOST_DELAY_S)] = 0.0
    loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    rate_bit_s: Annotated[float, msgspec.Meta(ge=8000, le=1e12)] | None = None

    @property
    def shaped(self) -> bool:
        """Whether this direction differs from the bare link."""
        return self != Direction()


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link by name. Forward is from stage i to stage i + 1; the same profile holds at every hop."""

    name: str
    forward: Direction = Direction()
    backward: Direction = Direction()

    @property
    def shaped(self) -> bool:
        """Whether either direction differs from the bare link.

        >>> LinkProfile(name="none").shaped
        False
        """
        return self.forward.shaped or self.backward.shaped

    @property
    def rtt_s(self) -> float:
        """The round-trip time that the profile asks for, on an idle link and without jitter."""
        return self.forward.delay_s + self.backward.delay_s

    @property
    def rtt_spread_s(self) -> float:
        """From the 10th to the 90th percentile of round trips, as the jitter asked for both ways gives it.

        Round trips have the trapezoidal distribution of the sum of two even draws.
        """
        less, more = sorted((self.forward.jitter_s, self.backward.jitter_s))
        # 10 % of a trapezoid lies on its slope, of width 2 x less, as long as less / (2 x more) reaches 10 %.
        if less >= 0.2 * more:
            return 2 * (more + less - math.sqrt(0.8 * more * less))
        return 1.6 * more


UNSHAPED = LinkProfile(name="none")


class _TwoWays(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    forward: Direction
    backward: Direction


def load_links(path: Path) -> dict[str, LinkProfile]:
    """Read a link file: a mapping from name to either one set of keys for both directions, or to
    `forward:` and `backward:`, each with its own.

    Raises:
        ConfigError: with the path of the wrong value inside the file.
    """
    profiles = {}
    for name, entry in read_yaml(path).items():
        entry, here = {} if entry is None else entry, f"{path}: {name}"
        check_name(here, name)  # it names folders
        if not isinstance(entry, dict):
            raise ConfigError(f"{here}: expected keys such as delay_s and rate_bit_s, got {shown(entry)}")
        if entry.keys() & {"forward", "backward"}:
            both: _TwoWays = decode(entry, _TwoWays, f"{here}.")
        else:
            one: Direction = decode(entry, Direction, f"{here}.")
            both = _TwoWays(forward=one, backward=one)
        for way in (both.forward, both.backward):
            if way.jitter_s > way.delay_s:
                raise ConfigError(
                    f"{here}.jitter_s: expected at most delay_s ({way.delay_s:g}), got {way.jitter_s:g}: "
                    "a packet cannot arrive before it was sent"
                )
        profiles[name] = LinkProfile(name=name, forward=both.forward, backward=both.backward)
    return profiles


def find_link(name: str, path: Path) -> LinkProfile:
    """The profile called `name` in the link file at `path`.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    profiles = load_links(path)
    if name not in profiles:
        raise ConfigError(f"link: {name!r} is not in {path}; {nearest(name, profiles)}")
    return profiles[name]


class HopMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one hop was measured to be.

    Round trips of a small message, `exchanges` of them, over one connection on the data plane; goodput
    is the TCP payload that came in per second in a window after the connection's start-up, at the
    receiver's clock. `rtt_spread_s` is from the 10th to the 90th percentile of those round trips in which
    nothing was lost, `rtt_low_spread_s` twice from the 10th to the 50th: what a busy host adds to some round trips
    is not in it. `*_resent` is the share of segments that TCP had to send again, `*_loss` that of those it sent
    again for good reason: less those that the receiver reported as had twice; `*_segments` of how many;
    `segment_bytes` is what a segment carries. None where the system does not tell.
    """

    rtt_s: float
    rtt_min_s: float
    rtt_p90_s: float
    rtt_p99_s: float
    exchanges: int
    forward_bit_s: float
    backward_bit_s: float
    forward_resent: float | None = None
    backward_resent: float | None = None
    segment_bytes: int | None = None
    rtt_spread_s: float | None = None
    rtt_low_spread_s: float | None = None
    forward_loss: float | None = None
    backward_loss: float | None = None
    forward_segments: int | None = None
    backward_segments: int | None = None


class LinkRecord(msgspec.Struct, kw_only=True):
    """The link of one trial: what was asked for, what shaped it, and what was measured around the trial.

    `before` and `after` have one entry per hop; `after` is None while the link was not yet measured
    again, and for good if the run was broken off before it was. `tunnel` is "ssh" where all of it,
    trials and measurements alike, went through SSH.
    """

    profile: LinkProfile
    engine: str
    tunnel: str = "none"
    before: list[HopMeasurement] = []
    after: list[HopMeasurement] | None = None

    @property
    def verified(self) -> bool:
        """Whether the link is known to have been as asked for from start to end."""
        return not self.profile.shaped or self.after is not None


TOLERANCE = 0.1
EARLY_S = 0.0005  # the user-space engine lets packets arrive so much too early at most: far fewer wake-ups
HEADER_BYTES = 52  # IPv4 and TCP with timestamps
SEGMENT_BYTES = 1448  # what is left of 1500 bytes
LOSS_MARGIN, LOSS_SIGMAS = 0.25, 4.0


def loss_range(loss: float, segments: int) -> tuple[float, float]:
    """Between which shares of so many segments the losses of a right link lie; from 0 where so few cannot tell.

    Poisson counts, by the square root that makes their variance 1/4 (Anscombe 1948): 4 standard
    deviations, and a margin of 25 % for what TCP does not count exactly.

    >>> [round(share, 4) for share in loss_range(0.01, 10_000)]
    [0.0044, 0.0174]
    >>> loss_range(0.01, 300)[0]
    0.0
    """
    few = max(0.0, math.sqrt((1 - LOSS_MARGIN) * loss * segments) - LOSS_SIGMAS / 2) ** 2
    many = (math.sqrt((1 + LOSS_MARGIN) * loss * segments) + LOSS_SIGMAS / 2) ** 2
    return few / segments, min(1.0, many / segments)


QUEUE_S = 0.1


MIN_QUEUE_BYTES = 96_000


UNLIMITED_BYTES = 64 * 2**20


def queue_bytes(direction: Direction) -> int:
    """What may wait for the link's rate: 0.1 s of it plus a round trip at its delay, at least 96 kB.

    A TCP sender thus finds the buffer a sensible router would have: enough to keep the link full,
    bounded, and then its packets are dropped.

    >>> queue_bytes(Direction(delay_s=0.2, rate_bit_s=5e6))
    312500
    """
    if direction.rate_bit_s is None:
        return UNLIMITED_BYTES
    seconds = QUEUE_S + 2 * direction.delay_s
    return max(MIN_QUEUE_BYTES, round(direction.rate_bit_s / 8 * seconds))


def wire_parts(wire: str, where: str = "") -> tuple[WireKind, Compression]:
    """The kind and the compression of a wire type.

    Raises:
        ConfigError: there is no such type; the nearest are named.

    >>> wire_parts("int8+zstd"), wire_parts("float16")
    (('int8', 'zstd'), ('float16', ''))
    """
    if wire not in WIRES:
        raise ConfigError(f"{where}wire: {wire!r} is unknown; {nearest(wire, WIRES)}")
    kind, _, how = wire.partition("+")
    return cast("WireKind", kind), cast("Compression", how)
