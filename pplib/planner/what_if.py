"""What would help: how much better the best of the measured cuts would be if a device or the link were quicker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.required_columns import numeric_column
from pplib.planner.pipeline_model import Array, PipelineTimes, periodic, predict

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
    groups = list(_measured(summary)) if known else []
    if not groups:
        return []
    stages = {one.compute_s.shape[1] for one, _ in groups}
    parts: list[int | str] = [*range(min(stages)), LINK, DEPTH] if len(stages) == 1 else [LINK, DEPTH]
    usual = _best([one for one, _ in groups], known)
    return [
        Change(
            part,
            {
                name: float(usual[name] / value if way == "min" else value / usual[name])
                for (name, way), value in zip(
                    known.items(), _best([_changed(*one, part) for one in groups], known).values(), strict=True
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


def _measured(summary: pd.DataFrame) -> Iterator[tuple[PipelineTimes, tuple[Array, Array]]]:
    """For each number of stages and depth, the mean parts of every point, and how much of hops and way back is wire."""
    keys = ["num_stages", "in_flight", "batch_size"]
    for numbers, trials in summary[summary["status"] == "ok"].groupby(keys):
        num_stages, depth, batch_size = (int(str(one)) for one in numbers)
        stages = [f"stage{i}_compute_s" for i in range(num_stages)]
        hops = [f"hop{i}_transfer_s" for i in range(num_stages - 1)]
        if not {*stages, *hops, "return_transfer_s"} <= set(summary.columns):
            continue
        points = trials.groupby(POINT_KEYS, dropna=False, sort=False)
        column = {
            name: numeric_column(trials, name, "the summary").groupby(points.ngroup()).mean().to_numpy()
            for name in _columns(trials, len(hops))
        }
        zero = np.zeros(points.ngroups)
        delay = column.get("link_requested_rtt_s", zero) / 2
        told = [np.isfinite(column[name]) for name in (*stages, *hops, "return_transfer_s")]
        known = np.logical_and.reduce(told)

        def parts(names: list[str]) -> Array:
            found = np.stack([np.nan_to_num(column.get(name, zero)) for name in names], axis=1)  # noqa: B023
            return np.asarray(found[known], dtype=np.float64)  # noqa: B023

        if not known.any():
            continue
        carried = np.maximum(parts(hops) - delay[known, None], 0.0)
        back = np.maximum(parts(["return_transfer_s"]) - len(hops) * delay[known, None], 0.0)
        times = PipelineTimes(
            compute_s=parts(stages),
            busy_s=carried,
            propagation_s=np.broadcast_to(delay[known, None], carried.shape),
            encode_s=parts([f"hop{i}_encode_s" for i in range(len(hops))]),
            decode_s=parts([f"hop{i}_decode_s" for i in range(len(hops))]),
            return_busy_s=back,
            return_propagation_s=len(hops) * delay[known, None],
            in_flight=depth,
            batch_size=batch_size,
        )
        rates = parts([f"hop{i}_forward_before_bit_s" for i in range(len(hops))])
        payload = parts([f"hop{i}_payload_bytes" for i in range(len(hops))])
        with np.errstate(divide="ignore", invalid="ignore"):
            wire = np.nan_to_num(payload * 8 / rates, posinf=0.0)
        shaped = np.isfinite(column.get("link_requested_backward_bit_s", zero * np.nan))[known, None]
        yield times, (np.minimum(wire, carried), np.where(shaped, back, 0.0))


def _columns(trials: pd.DataFrame, num_hops: int) -> list[str]:
    wanted = r"stage\d+_compute_s|hop\d+_(transfer|encode|decode)_s|hop\d+_payload_bytes|hop\d+_forward_before_bit_s"
    wanted += r"|return_transfer_s|link_requested_rtt_s|link_requested_backward_bit_s"
    return [str(name) for name in trials.columns if re.fullmatch(wanted, str(name))]


def _changed(times: PipelineTimes, wire: tuple[Array, Array], part: int | str) -> PipelineTimes:
    """With one part `FASTER` times as fast, or one more in flight."""
    less = 1 - 1 / FASTER
    if part == DEPTH:
        return replace(times, in_flight=times.in_flight + 1)
    if part == LINK:
        assert times.return_busy_s is not None
        return replace(times, busy_s=times.busy_s - less * wire[0], return_busy_s=times.return_busy_s - less * wire[1])
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
