"""What any cut would do over any link: from profiles of the devices and hops, by the pipeline model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pplib.errors import FrameError
from pplib.links import UNSHAPED, Direction, LinkProfile
from pplib.planner.cuts import Cuts, carried
from pplib.planner.pipeline_model import Array, PipelineTimes, part_names, periodic, predict
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.profiles.stage_times import StageTimes
from pplib.records import point_label

PREDICTED = ("latency_s", "response_s", "throughput_img_s")


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


def predict_cuts(
    pipeline: Pipeline, points: Sequence[tuple[int, ...]], draws: int = 200, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Predict latency, response and throughput of cuts that nobody has measured.

    A stage takes what its device's profile says. A hop takes the fixed cost of a message, and for its bytes the longer
    of what software takes and what the link's rate does, then the link's delay; so does the way back of a result, whose
    delay is that of all links. The rest is `pipeline_model`. What the profiles are unsure of is drawn, for each stage
    and hop of each cut apart, and goes through the model: the interval is of the draws. In it is neither how noisy one
    trial is, nor how fast the devices are that day against the day of their profiles, which is common to all cuts.

    Args:
        pipeline: what is the same for all cuts.
        points: of each cut, one less than there are stages, 0..N, not decreasing.
        draws: how many.
        seed: the same seed gives the same intervals.
        level: the share of cases in which an interval should hold.

    Returns:
        One row per cut: partition_label, and for latency_s, response_s and throughput_img_s `predicted_<column>`,
        `predicted_<column>_low` and `_high`; `predicted_bound_img_s` and `predicted_bottleneck`.

    Raises:
        FrameError: points that are none, or not as many profiles as stages and hops.
    """
    times, num_stages = _times(pipeline, _places(pipeline, points), draws, seed), len(pipeline.stages)
    found = predict(times, *periodic(pipeline.in_flight))
    shape = (len(points), draws + 1)
    table: dict[str, object] = {"partition_label": [point_label(list(one)) for one in points]}
    for name in PREDICTED:
        values = getattr(found, name).reshape(shape)
        low, high = np.quantile(values[:, 1:], [(1 - level) / 2, (1 + level) / 2], axis=1)
        table |= {f"predicted_{name}": values[:, 0], f"predicted_{name}_low": low, f"predicted_{name}_high": high}
    names = part_names(num_stages)
    table["predicted_bound_img_s"] = found.bound_img_s.reshape(shape)[:, 0]
    table["predicted_bottleneck"] = [names[i] for i in found.bottleneck.reshape(shape)[:, 0]]
    return pd.DataFrame(table)


def cuts_of(pipeline: Pipeline, points: Sequence[tuple[int, ...]]) -> Cuts:
    """Cuts that nobody has measured, to be thought over other links than the pipeline's, which counts for nothing here.

    Args:
        pipeline: what is the same for all cuts.
        points: as for `predict_cuts`.

    Raises:
        FrameError: as `predict_cuts`.
    """
    places = _places(pipeline, points)
    crossing = np.asarray(pipeline.activation_bytes, dtype=np.float64)
    hops = [np.interp(crossing[places[:, i]], *_sorted(hop)) for i, hop in enumerate(pipeline.hops)]
    return Cuts(
        labels=[point_label(list(one)) for one in points],
        times=_times(replace(pipeline, link=UNSHAPED), places, 0, 0),
        payload_bytes=np.stack(hops, axis=1),
        result_bytes=np.full((len(points), 1), crossing[-1]),
        fixed_s=np.array([hop.transfer.fixed_s for hop in pipeline.hops]),
        return_fixed_s=pipeline.hops[-1].back.fixed_s,
    )


def _places(pipeline: Pipeline, points: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The points, checked, as (cuts, hops)."""
    num_stages, last = len(pipeline.stages), len(pipeline.activation_bytes) - 1
    if num_stages < 2 or len(pipeline.hops) != num_stages - 1:
        raise FrameError(f"expected 2 or more stages, and a hop less, got {num_stages} and {len(pipeline.hops)}")
    for one in points:
        if len(one) != num_stages - 1 or list(one) != sorted(one) or not all(0 <= point <= last for point in one):
            raise FrameError(f"points: expected {num_stages - 1} of 0 to {last}, in order, got {one}")
    return np.asarray(points, dtype=np.int64).reshape(len(points), num_stages - 1)


def _times(pipeline: Pipeline, points: np.ndarray, draws: int, seed: int) -> PipelineTimes:
    """For each cut one candidate of what is expected, and then its draws."""
    count, last = len(points), len(pipeline.activation_bytes) - 1
    rng = np.random.default_rng(seed)

    def drawn(seconds: Array, log_sd: Array | float) -> Array:
        """(cuts,) or one per cut -> (cuts x (1 + draws),)."""
        factors = np.exp(rng.standard_normal((count, draws)) * np.broadcast_to(log_sd, (count,))[:, None])
        both = np.concatenate([np.ones((count, 1)), factors], axis=1)
        return np.asarray((np.asarray(seconds)[:, None] * both).reshape(-1), dtype=np.float64)

    ends = np.concatenate([np.zeros((count, 1), np.int64), points, np.full((count, 1), last)], axis=1)
    compute = []
    for i, stage in enumerate(pipeline.stages):
        seconds, log_sd = np.array([stage.at(int(first), int(end)) for first, end in ends[:, i : i + 2]]).T
        compute.append(drawn(seconds, log_sd))
    crossing = np.asarray(pipeline.activation_bytes, dtype=np.float64)
    busy, encode, decode = list[Array](), list[Array](), list[Array]()
    for i, hop in enumerate(pipeline.hops):
        num_bytes = crossing[points[:, i]]
        payload = np.interp(num_bytes, *_sorted(hop))
        busy.append(drawn(_carried(hop.transfer, payload, pipeline.link.forward), hop.transfer.log_sd))
        for line, into in ((hop.encode, encode), (hop.decode, decode)):
            into.append(np.zeros(count * (draws + 1)) if line is None else drawn(line.at(num_bytes), line.log_sd))
    result = np.full(count, crossing[-1])
    back = pipeline.hops[-1].back
    hops, delays = len(pipeline.hops), pipeline.link
    return PipelineTimes(
        compute_s=np.stack(compute, axis=1),
        busy_s=np.stack(busy, axis=1),
        propagation_s=np.full((count * (draws + 1), hops), delays.forward.delay_s),
        encode_s=np.stack(encode, axis=1),
        decode_s=np.stack(decode, axis=1),
        return_busy_s=drawn(_carried(back, result, delays.backward), back.log_sd)[:, None],
        return_propagation_s=np.full((count * (draws + 1), 1), hops * delays.backward.delay_s),
        in_flight=pipeline.in_flight,
        batch_size=pipeline.batch_size,
    )


def _sorted(hop: HopProfile) -> tuple[Array, Array]:
    """The sizes of its messages, and what crossed of each."""
    order = np.argsort(hop.num_bytes)
    return np.asarray(hop.num_bytes, dtype=np.float64)[order], np.asarray(hop.payload_bytes)[order]


def _carried(line: Line, payload: Array, way: Direction) -> Array:
    """How long a message keeps a link busy."""
    return carried(np.asarray(line.fixed_s), line.per_byte_s * payload, payload, way.rate_bit_s)
