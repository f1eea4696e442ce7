"""What the parts of a pipeline take for any cut, from profiles of devices and hops, and how far that may be off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pplib.links import UNSHAPED, Direction, LinkProfile
from pplib.planner.cuts import carried
from pplib.planner.measured_cuts import NOISE_SD, Measured, MeasuredCuts
from pplib.planner.part_errors import Found, Prior, draw_errors, found_once
from pplib.planner.pipeline_model import Array, PipelineTimes
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.profiles.stage_times import StageTimes

# How far what profiles say may be off, on the log scale, before a trial has told. Of stages: a device has its days, and
# one that never rests is slower than one that does, so that all are off alike; and long stages more like long ones. Of
# hops what software takes; a link keeps to its rate.
STAGES = Prior(level=0.1, alike=0.06, length=0.3)
HOPS = Prior(level=0.3, alike=0.15, length=0.7)
RATE_SD = 0.02
# Of messages of less than rate x round trip: TCP, which then does not know the link's rate, spreads them over up to so
# many round trips more, at 97.5 %; measured with BBR, see docs/measuring.md.
PACED_ROUND_TRIPS = 0.3
_SDS = 1.96  # to there


@dataclass(frozen=True)
class Pipeline:
    """What is the same for all cuts.

    Attributes:
        stages: what each device takes for units, in stage order.
        hops: between each two of them.
        activation_bytes: what crosses at each point 0..N, as it is, for one microbatch.
        link: at every hop.
        in_flight, batch_size: microbatches admitted, and images in each.
    """

    stages: Sequence[StageTimes]
    hops: Sequence[HopProfile]
    activation_bytes: Sequence[int]
    link: LinkProfile = UNSHAPED
    in_flight: int = 1
    batch_size: int = 1

    def fits(self, points: Sequence[int]) -> bool:
        """Whether each device's memory has room for the weights of its stage."""
        borders = itertools.pairwise((0, *points, len(self.activation_bytes) - 1))
        return all(stage.fits(*border) for stage, border in zip(self.stages, borders, strict=True))


class Parts:
    """The times of the parts of cuts: of each what is expected, then draws."""

    def __init__(
        self, pipeline: Pipeline, cuts: list[tuple[int, ...]], measured: MeasuredCuts | None, draws: int, seed: int
    ) -> None:
        self._pipeline, self._measured, self._draws = pipeline, measured, draws
        self._seeds = itertools.count(seed * 1000)
        self._bytes = np.asarray(pipeline.activation_bytes, dtype=np.float64)
        last = len(self._bytes) - 1
        inner = np.asarray(cuts, dtype=np.intp).reshape(len(cuts), len(pipeline.hops))
        self._ends = np.concatenate([np.zeros((len(cuts), 1), np.intp), inner, np.full((len(cuts), 1), last)], axis=1)
        self.every = np.arange(len(cuts))
        place = {one: i for i, one in enumerate(cuts)}
        self._known = np.array([place[one] for one in measured.points] if measured else [], dtype=np.intp)

    def off(
        self,
        part_of: NDArray[np.intp],
        seconds: Array,
        of: Measured | None,
        prior: Prior,
        own_sd: Array,
        places: Array | None = None,
        weight: Array | None = None,
    ) -> Array:
        """How far the predictions of parts of one kind are off, log: (parts, 1 + draws).

        Args:
            part_of: (cuts,): which part a cut has.
            seconds: (parts,): what is predicted.
            of: what was measured of it.
            prior, own_sd, places, weight: see `part_errors.draw_errors`.
        """
        found = Found(np.zeros(0, np.intp), np.zeros(0), np.zeros(0))
        if of is not None and len(of.value):
            parts = part_of[self._known]
            told = np.isfinite(of.value) & (of.value > 0) & (seconds[parts] > 0)
            found = found_once(parts[told], np.log(of.value[told] / seconds[parts[told]]), of.noise_sd[told])
        places = np.zeros((len(seconds), 1)) if places is None else places
        return draw_errors(places, own_sd, prior, found, self._draws, next(self._seeds), weight)

    def times(self) -> PipelineTimes:
        """For each cut one candidate of what is expected, and then its draws."""
        pipeline, measured = self._pipeline, self._measured
        num_hops, delays = len(pipeline.hops), pipeline.link
        compute = [self._stage(i) for i in range(num_hops + 1)]
        hops = [self._hop(i) for i in range(num_hops)]
        none = np.zeros(len(self.every), np.intp)
        of = measured and _less(measured.back_s, num_hops * delays.backward.delay_s)
        back = self._carried(pipeline.hops[-1].back, self._bytes[-1:], delays.backward, none, of)
        count = len(back)
        return PipelineTimes(
            compute_s=np.stack(compute, axis=1),
            busy_s=np.stack([busy for busy, _, _ in hops], axis=1),
            propagation_s=np.full((count, num_hops), delays.forward.delay_s),
            encode_s=np.stack([encode for _, encode, _ in hops], axis=1),
            decode_s=np.stack([decode for _, _, decode in hops], axis=1),
            return_busy_s=back[:, None],
            return_propagation_s=np.full((count, 1), num_hops * delays.backward.delay_s),
            in_flight=pipeline.in_flight,
            batch_size=pipeline.batch_size,
        )

    def _stage(self, i: int) -> Array:
        stage = self._pipeline.stages[i]
        borders, part_of = np.unique(self._ends[:, i : i + 2], axis=0, return_inverse=True)
        seconds, log_sd = np.array([stage.at(int(first), int(end)) for first, end in borders]).T
        last = len(self._bytes) - 1
        until = np.array([stage.at(0, point).seconds for point in range(last + 1)]) / stage.at(0, last).seconds
        empty = borders[:, 0] == borders[:, 1]  # what one takes tells nothing of others
        known = np.where(empty, 0.0, seconds)
        of = self._measured.compute_s[i] if self._measured and self._measured.points else None
        off = self.off(part_of, known, of, STAGES, log_sd, until[borders])
        return np.asarray((seconds[:, None] * np.exp(off))[part_of].reshape(-1))

    def _hop(self, i: int) -> tuple[Array, Array, Array]:
        """How long it is busy, encodes and decodes."""
        hop, link = self._pipeline.hops[i], self._pipeline.link
        at, part_of = np.unique(self._ends[:, i + 1], return_inverse=True)
        num_bytes = self._bytes[at]
        payload = hop.crossing_bytes(num_bytes)
        of = None
        if self._measured and self._measured.points:
            of = _less(self._measured.hop_s[i], link.forward.delay_s)
        busy = self._carried(hop.transfer, payload, link.forward, part_of, of)
        coded = []
        for line in (hop.encode, hop.decode):
            seconds, log_sd = (np.zeros(len(at)), 0.0) if line is None else (line.at(num_bytes), line.log_sd)
            off = self.off(part_of, seconds, None, HOPS, np.full(len(at), log_sd))
            coded.append((seconds[:, None] * np.exp(off))[part_of].reshape(-1))
        return busy, coded[0], coded[1]

    def _carried(
        self, line: Line, payload: Array, way: Direction, part_of: NDArray[np.intp], of: Measured | None
    ) -> Array:
        """How long a hop, or the way back, is busy: (candidates,)."""
        seconds = carried_s(line, payload, way)
        share = np.where(seconds > line.at(payload), line.fixed_s / seconds, 1.0)  # of it that software takes
        own_sd = np.hypot(np.hypot(line.log_sd * share, RATE_SD), self._paced_sd(seconds, payload, way))
        places = np.log10(np.maximum(payload, 1.0))[:, None]
        off = self.off(part_of, seconds, of, HOPS, own_sd, places, share)
        return np.asarray((seconds[:, None] * np.exp(off))[part_of].reshape(-1))

    def _paced_sd(self, seconds: Array, payload: Array, way: Direction) -> Array:
        """How far TCP's pace may have messages take longer, log."""
        round_trip_s = self._pipeline.link.forward.delay_s + self._pipeline.link.backward.delay_s
        under_way = math.inf if way.rate_bit_s is None else way.rate_bit_s / 8 * round_trip_s
        longer_s = np.where(payload < under_way, PACED_ROUND_TRIPS * round_trip_s, 0.0)
        return np.asarray(np.log1p(longer_s / seconds) / _SDS)


def _less(measured: Measured, delay_s: float) -> Measured:
    """A time without the delay in it: what is left is as sure, and no less than the noise of what was."""
    left = measured.value - delay_s
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = measured.noise_sd * measured.value / left
    return Measured(np.where(left > 0, left, np.nan), np.where(left > 0, noise, NOISE_SD))


def carried_s(line: Line, payload: Array, way: Direction) -> Array:
    """How long messages keep a link busy, see `cuts.carried`; `line` is what software takes, `payload` what crosses."""
    return carried(np.asarray(line.fixed_s), line.per_byte_s * payload, payload, way.rate_bit_s)
