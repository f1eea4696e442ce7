"""What would help: how much better the best of the measured cuts would be if a device or the link were quicker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pplib.planner.changes.measured_parts import MeasuredParts, measured_parts
from pplib.planner.pipeline_model import PipelineTimes, periodic, predict

FASTER = 2.0
"""How many times as fast a part is thought to be; in words, twice."""
LINK, DEPTH = "link", "in_flight"
"""What is changed, beside a stage by its number."""


@dataclass(frozen=True)
class Change:
    """One thing that could be better: a device twice as fast, a link of twice the rate, one more in flight.

    Attributes:
        part: the number of a stage, whose device is twice as fast; LINK, of twice the rate; or DEPTH, one more.
        gains: column -> how many times as good the best over all cuts is with that change: 1.3 is 1.3 times the
            throughput, or the latency divided by 1.3.
    """

    part: int | str
    gains: Mapping[str, float]


def changes_that_help(summary: pd.DataFrame, objectives: Mapping[str, str]) -> list[Change]:
    """What a change of one part would bring, by the pipeline model from the parts that were measured.

    Every point is computed again with the change, so that another cut may be the best one then; the gain is the ratio
    of what the model says with it and without. Nothing of it was measured with the change.

    Args:
        summary: trials of one model over one link, the columns of `summary.csv`.
        objectives: column -> "min" or "max"; those that are no latency, response or throughput are left out.

    Returns:
        One for each stage, the link, and the depth; none where the trials do not tell their parts.

    Raises:
        FrameError: a column holds no numbers.
    """
    known = {name: way for name, way in objectives.items() if name in ("latency_s", "response_s", "throughput_img_s")}
    groups = list(measured_parts(summary)) if known else []
    if not groups:
        return []
    stages = {one.times.compute_s.shape[1] for one in groups}
    parts: list[int | str] = [*range(min(stages)), LINK, DEPTH] if len(stages) == 1 else [LINK, DEPTH]
    usual = _best([one.times for one in groups], known)
    return [
        Change(
            part,
            {
                name: float(usual[name] / value if way == "min" else value / usual[name])
                for (name, way), value in zip(
                    known.items(), _best([_changed(one, part) for one in groups], known).values(), strict=True
                )
            },
        )
        for part in parts
    ]


def _best(groups: list[PipelineTimes], known: Mapping[str, str]) -> dict[str, float]:
    found = [predict(one, *periodic(one.in_flight))._asdict() for one in groups]
    return {
        name: min(float(one[name].min()) for one in found)
        if way == "min"
        else max(float(one[name].max()) for one in found)
        for name, way in known.items()
    }


def _changed(parts: MeasuredParts, part: int | str) -> PipelineTimes:
    """With one part `FASTER` times as fast, or one more in flight."""
    times = parts.times
    if part == DEPTH:
        return replace(times, in_flight=times.in_flight + 1)
    if part == LINK:
        assert times.return_busy_s is not None
        less = 1 - 1 / FASTER
        with np.errstate(divide="ignore", invalid="ignore"):
            wire = np.nan_to_num(parts.payload_bytes * 8 / parts.goodput_bit_s, posinf=0.0)
        back = np.where(np.isfinite(parts.back_bit_s), times.return_busy_s, 0.0)
        return replace(
            times,
            busy_s=times.busy_s - less * np.minimum(wire, times.busy_s),
            return_busy_s=times.return_busy_s - less * back,
        )
    stage = int(part)
    compute = times.compute_s.copy()
    compute[:, stage] /= FASTER
    coded = {}
    for name, hop in (("encode_s", stage), ("decode_s", stage - 1)):
        values = getattr(times, name).copy()
        if 0 <= hop < values.shape[1]:
            values[:, hop] /= FASTER
        coded[name] = values
    return replace(times, compute_s=compute, **coded)
