"""What a cut in two would do, from one profile of units and a link: a model, not a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.errors import FrameError
from pplib.planner.pipeline_model import PipelineTimes, part_names, periodic, predict

_PROFILE = ["index", "name", "time_s", "activation_bytes"]
_HELD = {"params": "params", "param_bytes": "param_bytes", "flops": "flops"}

Numbers = npt.NDArray[np.float64]


def predict_points(
    profile: pd.DataFrame,
    slowdowns: Sequence[float] = (1.0, 1.0),
    rate_bit_s: float | None = None,
    delay_s: float = 0.0,
    in_flight: int = 1,
    *,
    batch_size: int,
    input_bytes: int,
) -> pd.DataFrame:
    """Predict every partition point p = 0..N of a two-stage pipeline.

    A stage takes the sum of its units' profiled times, times its device's slowdown. A hop takes the bytes over the
    rate, plus the delay; only the first part keeps the link busy; so does the way back of a result. What becomes of
    that with so many in flight is the pipeline model's. Left out: serialising and copying, the backend's own cost per
    message, jitter, loss, two devices sharing one machine's caches and memory: `predict_cuts` has more of that, from
    profiles of the devices themselves.

    Args:
        profile: one row per unit 1..N: index, name, time_s, activation_bytes (and params, param_bytes,
            flops where known), measured with this batch size.
        slowdowns: how many times slower than the profiled machine the two devices are.
        rate_bit_s: of the link, each way; None for a link that costs no time but its delay.
        delay_s: one way.
        in_flight: microbatches admitted whose result is not back yet.
        batch_size: images per microbatch.
        input_bytes: of one microbatch's input, which is what crosses at p = 0.

    Returns:
        One row per point: partition_point, partition_label, partition_name, activation_bytes, units,
        params, bytes and FLOPs per stage, and predicted_* columns (s, img/s).

    Raises:
        FrameError: the profile lacks a column, or an argument makes no sense.

    >>> profile = pd.DataFrame({"index": [1, 2], "name": ["a", "b"], "time_s": [0.1, 0.3],
    ...                         "activation_bytes": [1000, 10]})
    >>> table = predict_points(profile, rate_bit_s=80e3, batch_size=8, input_bytes=2000)
    >>> [round(value, 3) for value in table["predicted_latency_s"]]
    [0.6, 0.5, 0.401]
    """
    _check_arguments(slowdowns, rate_bit_s, delay_s, in_flight, batch_size, input_bytes)
    require_columns(profile, _PROFILE, "the profile")
    units = profile.sort_values("index", ignore_index=True)
    count = len(units)
    if units["index"].tolist() != list(range(1, count + 1)) or not count:
        raise FrameError(f"the profile: expected units 1..N, each once, got {units['index'].tolist()}")
    times = np.array(numeric_column(units, "time_s", "the profile"), dtype=np.float64)
    sent = np.array([input_bytes, *numeric_column(units, "activation_bytes", "the profile")], dtype=float)

    stage0, stage1 = _before_and_after(times, slowdowns)
    busy = np.zeros(count + 1) if rate_bit_s is None else sent * 8 / rate_bit_s
    transfer = busy + delay_s
    back = np.full(count + 1, busy[-1])  # the result is the last unit's output wherever the cut is
    found = predict(
        PipelineTimes(
            compute_s=np.stack([stage0, stage1], axis=1),
            busy_s=busy[:, None],
            propagation_s=np.full((count + 1, 1), delay_s),
            return_busy_s=back[:, None],
            return_propagation_s=np.full((count + 1, 1), delay_s),
            in_flight=in_flight,
            batch_size=batch_size,
        ),
        *periodic(in_flight),
    )

    points = np.arange(count + 1)
    table = pd.DataFrame(
        {
            "partition_point": points,
            "partition_label": [f"P{p}" for p in points],
            "partition_name": ["input", *units["name"].astype("str")],
            "activation_bytes": sent.astype("int64"),
            "stage0_units": points,
            "stage1_units": count - points,
        }
    )
    for column, name in _HELD.items():
        if column in units:
            whole = units[column].to_numpy()
            table[f"stage0_{name}"] = np.concatenate([[0], whole.cumsum()])
            table[f"stage1_{name}"] = whole.sum() - table[f"stage0_{name}"]
    return table.assign(
        predicted_stage0_compute_s=stage0,
        predicted_hop0_transfer_s=transfer,
        predicted_stage1_compute_s=stage1,
        predicted_latency_s=found.latency_s,
        predicted_response_s=found.response_s,
        predicted_bound_img_s=found.bound_img_s,
        predicted_throughput_img_s=found.throughput_img_s,
        predicted_bottleneck=np.array(part_names(2))[found.bottleneck],
    )


def _before_and_after(times: Numbers, slowdowns: Sequence[float]) -> tuple[Numbers, Numbers]:
    """Time of the units before and after each point 0..N, on their devices."""
    before = np.concatenate([[0.0], times.cumsum()])
    # Summed from the end, so that the last entry is exactly 0.
    after = np.concatenate([times[::-1].cumsum()[::-1], [0.0]])
    return before * slowdowns[0], after * slowdowns[1]


def _check_arguments(
    slowdowns: Sequence[float],
    rate_bit_s: float | None,
    delay_s: float,
    in_flight: int,
    batch_size: int,
    input_bytes: int,
) -> None:
    if len(slowdowns) != 2:
        raise FrameError(f"slowdowns: expected two, one per stage, got {list(slowdowns)}")
    for i, value in enumerate(slowdowns):
        if not (math.isfinite(value) and value > 0):
            raise FrameError(f"slowdowns[{i}]: expected a number above 0, got {value}")
    if rate_bit_s is not None and not rate_bit_s > 0:
        raise FrameError(f"rate_bit_s: expected a number above 0, or None for no limit, got {rate_bit_s}")
    if not (math.isfinite(delay_s) and delay_s >= 0):
        raise FrameError(f"delay_s: expected a number >= 0, got {delay_s}")
    for name, count in (("in_flight", in_flight), ("batch_size", batch_size), ("input_bytes", input_bytes)):
        if count < 1:
            raise FrameError(f"{name}: expected 1 or more, got {count}")
