"""What trials tell of the parts of every cut: stages, hops, way back, and what of a hop its link takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.required_columns import numeric_column
from pplib.planner.pipeline_model import Array, PipelineTimes


@dataclass(frozen=True)
class MeasuredParts:
    """The points of one number of stages and depth, each with the medians of its repeats; NaN is what is not known.

    Attributes:
        labels: of each point, such as P5.
        times: a hop is busy for its transfer less the delay that was asked of its link, and so is the way back.
        payload_bytes: that crossed each hop, (points, hops).
        goodput_bit_s: of each hop, measured before the trials, (points, hops).
        back_bit_s: rate that was asked for towards the first device, (points, 1); infinite where none was.
    """

    labels: list[str]
    times: PipelineTimes
    payload_bytes: Array
    goodput_bit_s: Array
    back_bit_s: Array


def measured_parts(summary: pd.DataFrame) -> Iterator[MeasuredParts]:
    """For each number of stages, depth and batch size, the points whose trials tell all their times.

    Args:
        summary: one row per trial, the columns of `summary.csv`.

    Raises:
        FrameError: a column holds no numbers.
    """
    keys = ["num_stages", "in_flight", "batch_size"]
    for numbers, trials in summary[summary["status"] == "ok"].groupby(keys):
        num_stages, depth, batch_size = (int(str(one)) for one in numbers)
        stages, hops = range(num_stages), range(num_stages - 1)
        needed = [*(f"stage{i}_compute_s" for i in stages), *(f"hop{i}_transfer_s" for i in hops), "return_transfer_s"]
        if not {*needed} <= set(trials.columns):
            continue
        points = trials.groupby(POINT_KEYS, dropna=False, sort=False)
        at = points.ngroup()
        column = {
            name: numeric_column(trials, name, "the summary").groupby(at).median().to_numpy(dtype=np.float64)
            for name in trials.columns
            if re.fullmatch(_COLUMNS, str(name))
        }
        known = np.logical_and.reduce([np.isfinite(column[name]) for name in needed])
        if not known.any():
            continue
        nothing = np.full(len(known), np.nan)

        def parts(names: list[str]) -> Array:
            return np.stack([column.get(name, nothing) for name in names], axis=1)[known]  # noqa: B023

        delay = np.nan_to_num(parts(["link_requested_rtt_s"]) / 2)
        carried = np.maximum(parts([f"hop{i}_transfer_s" for i in hops]) - delay, 0.0)
        yield MeasuredParts(
            labels=trials.groupby(at)["partition_label"].first()[known].astype("str").tolist(),
            times=PipelineTimes(
                compute_s=parts([f"stage{i}_compute_s" for i in stages]),
                busy_s=carried,
                propagation_s=np.broadcast_to(delay, carried.shape),
                encode_s=np.nan_to_num(parts([f"hop{i}_encode_s" for i in hops])),
                decode_s=np.nan_to_num(parts([f"hop{i}_decode_s" for i in hops])),
                return_busy_s=np.maximum(parts(["return_transfer_s"]) - len(hops) * delay, 0.0),
                return_propagation_s=len(hops) * delay,
                in_flight=depth,
                batch_size=batch_size,
            ),
            payload_bytes=parts([f"hop{i}_payload_bytes" for i in hops]),
            goodput_bit_s=parts([f"hop{i}_forward_before_bit_s" for i in hops]),
            back_bit_s=np.nan_to_num(parts(["link_requested_backward_bit_s"]), nan=np.inf),
        )


_COLUMNS = r"stage\d+_compute_s|hop\d+_(transfer_s|encode_s|decode_s|payload_bytes|forward_before_bit_s)"
_COLUMNS += r"|return_transfer_s|link_requested_rtt_s|link_requested_backward_bit_s"
