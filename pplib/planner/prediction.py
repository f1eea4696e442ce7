"""What any cut would do over any link: from profiles of the devices and hops, by the pipeline model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pplib.columns import ENERGY, PREDICTABLE
from pplib.errors import FrameError
from pplib.links import UNSHAPED
from pplib.planner.cuts import Cuts
from pplib.planner.measured_cuts import MeasuredCuts
from pplib.planner.part_errors import Prior
from pplib.planner.pipeline_model import Array, PipelineTimes, part_names, periodic, predict
from pplib.planner.pipeline_parts import Parts, Pipeline
from pplib.records import point_label

# How far what the pipeline model makes of the parts may be off, on the log scale: it waits for a part that is late.
PASSAGE, PASSAGE_OWN_SD = Prior(level=0.05), 0.02
POWER = Prior(level=0.1)  # and powers that a profile found, or a person gave
DRAWS, DRAWN = 200, 200_000


class CutDraws(NamedTuple):
    """What cuts may do: `values` has latency_s, response_s and throughput_img_s, each (cuts, 1 + draws): what is
    expected, then draws, of which those of one column belong together; and energy_per_image_j, where the powers of all
    devices are known. `bound_img_s` and `bottleneck`, a place in `part_names`, (cuts,), are of what is expected.
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
    """Predict latency, response, throughput, and energy where it can be, of cuts, see `draw_cuts`.

    Args:
        pipeline, points, draws, seed, measured: see there.
        level: the share of cases in which an interval should hold; how noisy a trial is, is not in it.

    Returns:
        One row per cut: partition_label, and for each of the values `predicted_<column>`, `predicted_<column>_low` and
        `_high`; `predicted_bound_img_s` and `predicted_bottleneck`.

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
    parts = Parts(pipeline, list(cuts), measured, draws, seed)
    times = parts.times()
    found = predict(times, *periodic(pipeline.in_flight))
    shape, rows = (len(cuts), draws + 1), [cuts[one] for one in points]
    values = dict[str, Array]()
    for name in PREDICTABLE:
        told = getattr(found, name).reshape(shape)
        of = measured.objectives.get(name) if measured else None
        off = parts.off(parts.every, told[:, 0], of, PASSAGE, np.full(len(cuts), PASSAGE_OWN_SD))
        values[name] = told * np.exp(off)
    if (told_j := _energy_j(pipeline, times, values["throughput_img_s"])) is not None:
        of = measured.objectives.get(ENERGY) if measured else None
        off = parts.off(parts.every, told_j[:, 0], of, POWER, np.full(len(cuts), PASSAGE_OWN_SD))
        values[ENERGY] = told_j * np.exp(off)
    values = {name: told[rows] for name, told in values.items()}
    bound, bottleneck = found.bound_img_s.reshape(shape)[rows, 0], found.bottleneck.reshape(shape)[rows, 0]
    return CutDraws(values, bound, bottleneck)


def _energy_j(pipeline: Pipeline, times: PipelineTimes, throughput_img_s: Array) -> Array | None:
    """What all devices take for an image, those that wait included; None where the power of one is not known."""
    powers = [stage.powers_w for stage in pipeline.stages if stage.powers_w]
    if len(powers) < len(pipeline.stages):
        return None
    idle_w, busy_w = np.array(powers, dtype=np.float64).T
    compute_s = np.asarray(times.compute_s).reshape(*throughput_img_s.shape, len(powers))
    return np.asarray(idle_w.sum() / throughput_img_s + compute_s @ (busy_w - idle_w) / pipeline.batch_size)


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
        times=Parts(replace(pipeline, link=UNSHAPED), list(points), None, 0, 0).times(),
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
