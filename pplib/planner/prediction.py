"""What any cut would do over any link: from profiles of the devices and hops, by the pipeline model, with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pplib.columns import PREDICTABLE
from pplib.errors import FrameError
from pplib.links import UNSHAPED, Direction, LinkProfile
from pplib.planner.cuts import Cuts, carried
from pplib.planner.measured_cuts import NOISE_SD, Measured, MeasuredCuts
from pplib.planner.part_errors import Found, Prior, draw_errors, found_once
from pplib.planner.pipeline_model import Array, PipelineTimes, part_names, periodic, predict
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.profiles.stage_times import StageTimes
from pplib.records import point_label

# How far what profiles say may be off, on the log scale, before a trial has told. Of stages: a device has its days, and
# one that never rests is slower than one that does, so that all are off alike; and long stages more like long ones. Of
# hops what software takes; a link keeps to its rate. What the pipeline makes of them waits for a part that is late.
STAGES = Prior(level=0.1, alike=0.06, length=0.3)
HOPS = Prior(level=0.3, alike=0.15, length=0.7)
PASSAGE, PASSAGE_OWN_SD = Prior(level=0.05), 0.02
RATE_SD = 0.02
DRAWS, DRAWN = 200, 200_000


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


class CutDraws(NamedTuple):
    """What cuts may do: `values` has latency_s, response_s and throughput_img_s, each (cuts, 1 + draws): what is
    expected, then draws, of which those of one column belong together. `bound_img_s` and `bottleneck`, a place in
    `part_names`, (cuts,), are of what is expected.
    """

    values: dict[str, Array]
    bound_img_s: Array
    bottleneck: NDArray[np.intp]


def predict_cuts(
    pipeline: Pipeline,
    points: Sequence[tuple[int, ...]],
    draws: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    measured: MeasuredCuts | None = None,
) -> pd.DataFrame:
    """Predict latency, response and throughput of cuts, see `draw_cuts`.

    Args:
        pipeline, points, draws, seed, measured: see there.
        level: the share of cases in which an interval should hold; how noisy a trial is, is not in it.

    Returns:
        One row per cut: partition_label, and for latency_s, response_s and throughput_img_s `predicted_<column>`,
        `predicted_<column>_low` and `_high`; `predicted_bound_img_s` and `predicted_bottleneck`.

    Raises:
        FrameError: points that are none, or not as many profiles as stages and hops.
    """
    return predictions_table(pipeline, points, draw_cuts(pipeline, points, draws, seed, measured), level)


def predictions_table(
    pipeline: Pipeline, points: Sequence[tuple[int, ...]], cuts: CutDraws, level: float = 0.95
) -> pd.DataFrame:
    """What was drawn of cuts as a table, see `predict_cuts`."""
    table: dict[str, object] = {"partition_label": [point_label(list(one)) for one in points]}
    for name, values in cuts.values.items():
        low, high = np.quantile(values[:, 1:], [(1 - level) / 2, (1 + level) / 2], axis=1)
        table |= {f"predicted_{name}": values[:, 0], f"predicted_{name}_low": low, f"predicted_{name}_high": high}
    names = part_names(len(pipeline.stages))
    table["predicted_bound_img_s"] = cuts.bound_img_s
    table["predicted_bottleneck"] = [names[i] for i in cuts.bottleneck]
    return pd.DataFrame(table)


def draw_cuts(
    pipeline: Pipeline,
    points: Sequence[tuple[int, ...]],
    draws: int | None = None,
    seed: int = 0,
    measured: MeasuredCuts | None = None,
) -> CutDraws:
    """What cuts may do, as profiles and, where there are such, trials of some of them leave it likely.

    A stage takes what its device's profile says. A hop takes the fixed cost of a message, and for its bytes the longer
    of what software takes and what the link's rate does, then the link's delay; so does the way back of a result, whose
    delay is that of all links. How far all that is off is drawn, see `part_errors`: what parts share and what each has
    to itself, from what trials found of the parts of other cuts. The rest is `pipeline_model`; how far that is off the
    trials is drawn likewise.

    Args:
        pipeline: what is the same for all cuts.
        points: of each cut, one less than there are stages, 0..N, not decreasing.
        draws: how many; if not given `DRAWS`, or fewer, so that of all cuts together there are `DRAWN` or about that.
        seed: the same seed gives the same draws.
        measured: cuts of this configuration, of these points or others; None if there are none yet.

    Raises:
        FrameError: points that are none, or not as many profiles as stages and hops.
    """
    _check(pipeline, points)
    draws = max(2, min(DRAWS, DRAWN // max(1, len(points)))) if draws is None else draws
    cuts = {one: i for i, one in enumerate(dict.fromkeys([*points, *(measured.points if measured else ())]))}
    parts = _Parts(pipeline, list(cuts), measured, draws, seed)
    found = predict(parts.times(), *periodic(pipeline.in_flight))
    shape, rows = (len(cuts), draws + 1), [cuts[one] for one in points]
    values = {}
    for name in PREDICTABLE:
        told = getattr(found, name).reshape(shape)
        of = measured.objectives.get(name) if measured else None
        off = parts.off(parts.every, told[:, 0], of, PASSAGE, np.full(len(cuts), PASSAGE_OWN_SD))
        values[name] = (told * np.exp(off))[rows]
    bound, bottleneck = found.bound_img_s.reshape(shape)[rows, 0], found.bottleneck.reshape(shape)[rows, 0]
    return CutDraws(values, bound, bottleneck)


def cuts_of(pipeline: Pipeline, points: Sequence[tuple[int, ...]]) -> Cuts:
    """Cuts that nobody has measured, to be thought over other links than the pipeline's, which counts for nothing here.

    Args:
        pipeline: what is the same for all cuts.
        points: as of `draw_cuts`.

    Raises:
        FrameError: as `draw_cuts`.
    """
    _check(pipeline, points)
    crossing = np.asarray(pipeline.activation_bytes, dtype=np.float64)
    places = np.asarray(points, dtype=np.intp).reshape(len(points), len(pipeline.hops))
    hops = [hop.crossing_bytes(crossing[places[:, i]]) for i, hop in enumerate(pipeline.hops)]
    return Cuts(
        labels=[point_label(list(one)) for one in points],
        times=_Parts(replace(pipeline, link=UNSHAPED), list(points), None, 0, 0).times(),
        payload_bytes=np.stack(hops, axis=1),
        result_bytes=np.full((len(points), 1), crossing[-1]),
        fixed_s=np.array([hop.transfer.fixed_s for hop in pipeline.hops]),
        return_fixed_s=pipeline.hops[-1].back.fixed_s,
    )


def _check(pipeline: Pipeline, points: Sequence[tuple[int, ...]]) -> None:
    num_stages, last = len(pipeline.stages), len(pipeline.activation_bytes) - 1
    if num_stages < 2 or len(pipeline.hops) != num_stages - 1:
        raise FrameError(f"expected 2 or more stages, and a hop less, got {num_stages} and {len(pipeline.hops)}")
    for one in points:
        if len(one) != num_stages - 1 or list(one) != sorted(one) or not all(0 <= point <= last for point in one):
            raise FrameError(f"points: expected {num_stages - 1} of 0 to {last}, in order, got {one}")


class _Parts:
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
        own_sd = np.hypot(line.log_sd * share, RATE_SD)
        places = np.log10(np.maximum(payload, 1.0))[:, None]
        off = self.off(part_of, seconds, of, HOPS, own_sd, places, share)
        return np.asarray((seconds[:, None] * np.exp(off))[part_of].reshape(-1))


def _less(measured: Measured, delay_s: float) -> Measured:
    """A time without the delay in it: what is left is as sure, and no less than the noise of what was."""
    left = measured.value - delay_s
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = measured.noise_sd * measured.value / left
    return Measured(np.where(left > 0, left, np.nan), np.where(left > 0, noise, NOISE_SD))


def carried_s(line: Line, payload: Array, way: Direction) -> Array:
    """How long messages keep a link busy, see `cuts.carried`; `line` is what software takes, `payload` what crosses."""
    return carried(np.asarray(line.fixed_s), line.per_byte_s * payload, payload, way.rate_bit_s)
