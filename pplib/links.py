"""Link profiles: what a network between two devices is like, per direction, and the file that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from pplib.decode import decode, read_yaml
from pplib.errors import ConfigError, nearest


class Direction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One direction of a link.

    Attributes:
        delay_s: one-way delay added to every packet; a round trip sees the sum of both directions.
        jitter_s: the delay of each packet is drawn evenly from delay_s - jitter_s to delay_s + jitter_s.
        loss: probability that a packet is lost, each by itself.
        rate_bit_s: what the link carries, headers of IP and TCP included; None is unlimited.
    """

    delay_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    jitter_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
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
        if not isinstance(entry, dict):
            raise ConfigError(f"{here}: expected keys such as delay_s and rate_bit_s, got {entry!r}")
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
