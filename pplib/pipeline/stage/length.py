"""How many microbatches a trial has."""

from __future__ import annotations

from dataclasses import dataclass

from pplib.errors import ProtocolError


@dataclass(frozen=True)
class Length:
    """How many microbatches a trial has: `most`, or fewer, but never less than `least`, so that it ends
    about `limit_s` after its first admission.
    """

    most: int
    least: int
    limit_s: float | None = None

    def ends_with(self, seq: int, elapsed_s: float, in_flight: int) -> bool:
        """Whether microbatch `seq`, admitted after `elapsed_s`, is the last.

        It is if one more would end after the limit, at the pace so far: of the `seq + 1` admitted,
        those in flight are not finished yet.

        >>> Length(10, 3, limit_s=10.0).ends_with(5, elapsed_s=8.0, in_flight=1)  # 1.6 s each: done at 9.6 s
        True
        """
        if seq + 1 >= self.most:
            return True
        if self.limit_s is None or seq + 1 < self.least:
            return False
        finished = seq + 1 - in_flight
        pace_s = elapsed_s / finished if finished > 0 else elapsed_s
        return elapsed_s + pace_s * (in_flight + 1) > self.limit_s

    def check(self, seq: int, last: bool, peer: str) -> None:
        """Make sure that a trial may end, or not, with microbatch `seq`, as `peer` says.

        Raises:
            ProtocolError: it cannot.
        """
        count = seq + 1
        if last and count < (self.least if self.limit_s is not None else self.most):
            raise ProtocolError(f"{peer}: said that microbatch {seq} is the last of the trial, expected {self}")
        if not last and count >= self.most:
            raise ProtocolError(f"{peer}: did not say that microbatch {seq} is the last of the trial, expected {self}")

    def __str__(self) -> str:
        fewer = "" if self.limit_s is None else f", or at least {self.least} where {self.limit_s} s are over,"
        return f"{self.most}{fewer} in all"
