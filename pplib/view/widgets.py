"""A slider over the partition points: what each stage holds, what crosses the cut, what it would do."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

import ipywidgets
import pandas as pd
from IPython.display import HTML

from pplib.errors import FrameError
from pplib.planner.split_prediction import predict_points
from pplib.view.charts.split import split_chart
from pplib.view.display import png_bytes
from pplib.view.range_input import RangeInput, numbers
from pplib.view.table_html import cell

RATES_MBIT_S = (1000.0, 300.0, 100.0, 50.0, 20.0, 10.0, 5.0, 1.0)


class Explorer(ipywidgets.VBox):  # type: ignore[misc]
    """Controls, and what they lead to: `table`, an HTML widget, and `picture`, a PNG image."""

    table: ipywidgets.HTML
    picture: ipywidgets.Image

    def still(self) -> HTML:
        """What it shows now, without controls: it stays readable in a copy that has no kernel."""
        return HTML(self._still_html())  # type: ignore[no-untyped-call]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Besides the live widget, what it shows now: for viewers that know no widgets."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/html": self._still_html()}

    def _still_html(self) -> str:
        picture = base64.b64encode(self.picture.value).decode()
        return f'{self.table.value}<img alt="predicted latency and throughput" src="data:image/png;base64,{picture}">'


class SplitSlider(Explorer):
    """Controls, a table and a picture that follow each other.

    The controls are `point`, `rate` (bit/s, infinite for no limit), `delay` (ms, one way), `slowdown0`, `slowdown1` and
    `in_flight`; setting their `value` from code does what moving them does. `table` is an HTML widget, `picture`
    a PNG image, `predicted` the frame behind both.
    """

    def __init__(
        self,
        profile: pd.DataFrame,
        batch_size: int,
        input_bytes: int,
        point: int | None,
        slowdowns: Sequence[float],
        rate_bit_s: float | None,
        delay_s: float,
        in_flight: int,
    ) -> None:
        self._profile, self._batch_size, self._input_bytes = profile, batch_size, input_bytes
        first = predict_points(
            profile, slowdowns, rate_bit_s, delay_s, in_flight, batch_size=batch_size, input_bytes=input_bytes
        )
        if point is None:
            point = _first_best(-first["predicted_throughput_img_s"])
        if point not in set(first["partition_point"]):
            raise FrameError(f"point: expected one of 0..{len(first) - 1}, got {point}")
        names = zip(first["partition_label"], first["partition_name"], first["partition_point"], strict=True)
        self.point = RangeInput("cut after", [(f"{label} {name}", int(p)) for label, name, p in names], point)
        self.rate = RangeInput("link rate", rate_options(rate_bit_s), math.inf if rate_bit_s is None else rate_bit_s)
        delay = float(delay_s * 1e3)
        self.delay = RangeInput("link delay, one way", numbers(0, max(300, delay), 0.5, delay, "ms"), delay)
        self.slowdown0 = _slowdown("device 0 slower by", slowdowns[0])
        self.slowdown1 = _slowdown("device 1 slower by", slowdowns[1])
        depths = [(str(depth), depth) for depth in range(1, max(8, in_flight) + 1)]
        self.in_flight = RangeInput("in flight", depths, in_flight)
        self.table = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png")
        self.predicted = first
        controls = [self.rate, self.delay, self.in_flight, self.slowdown0, self.slowdown1]
        for control in (self.point, *controls):
            control.observe(self._moved, names="value")
        self._show()
        super().__init__([self.point, *controls, self.table, self.picture])

    def _moved(self, _change: object) -> None:
        self.predicted = predict_points(
            self._profile,
            (self.slowdown0.value, self.slowdown1.value),
            self.rate.value,
            self.delay.value * 1e-3,
            self.in_flight.value,
            batch_size=self._batch_size,
            input_bytes=self._input_bytes,
        )
        self._show()

    def _show(self) -> None:
        self.table.value = split_html(self.predicted, self.point.value)
        self.picture.value = png_bytes(split_chart(self.predicted, self.point.value), ppi=90)


def split_slider(
    profile: pd.DataFrame,
    batch_size: int,
    input_bytes: int,
    point: int | None = None,
    slowdowns: Sequence[float] = (1.0, 1.0),
    rate_bit_s: float | None = 100e6,
    delay_s: float = 0.0,
    in_flight: int = 2,
) -> SplitSlider:
    """Choose a split by hand and see at once what it would do: a prediction, not a measurement.

    Args:
        profile: one row per unit, see `predict_points`.
        batch_size: images per microbatch, as profiled.
        input_bytes: of one microbatch's input.
        point: where the slider stands first; the highest predicted throughput if not given.
        slowdowns: of the two devices against the profiled machine, at first.
        rate_bit_s: of the link, at first; None for no limit.
        delay_s: of the link, one way, at first.
        in_flight: microbatches admitted whose result is not back yet, at first.

    Raises:
        FrameError: the profile lacks a column, or an argument makes no sense.
    """
    return SplitSlider(profile, batch_size, input_bytes, point, slowdowns, rate_bit_s, delay_s, in_flight)


def split_html(predicted: pd.DataFrame, point: int) -> str:
    """What a cut at `point` means, as an escaped HTML table.

    Args:
        predicted: see `predict_points`.
        point: one of its partition points.
    """
    chosen = predicted[predicted["partition_point"] == point].iloc[0]
    row: dict[str, Any] = {str(name): value for name, value in chosen.items()}
    count = len(predicted) - 1
    ranges = [_units(1, point), _units(point + 1, count)]
    rows = []
    for i, units in enumerate(ranges):
        held = [units]
        for column, factor, unit in (
            ("params", 1.0, "parameters"),
            ("param_bytes", 1e-6, "MB"),
            ("flops", 1e-9, "GFLOP"),
        ):
            if f"stage{i}_{column}" in row:
                value = row[f"stage{i}_{column}"] * factor
                held.append(f"{cell(int(value) if factor == 1.0 else float(value))} {unit}")
        rows.append((f"stage {i}", ", ".join(held), row[f"predicted_stage{i}_compute_s"]))
    crossing = f"output of {row['partition_name']}" if point else "the input images"
    crossing += f", {cell(float(row['activation_bytes']) * 1e-6)} MB per microbatch"
    rows.insert(1, ("hop 0", crossing, row["predicted_hop0_transfer_s"]))
    body = "".join(
        f"<tr><th>{html.escape(lane)}</th><td style='text-align:left'>{html.escape(text)}</td>"
        f"<td>{cell(float(time) * 1e3)} ms</td></tr>"
        for lane, text, time in rows
    )
    latency, throughput = float(row["predicted_latency_s"]) * 1e3, float(row["predicted_throughput_img_s"])
    quickest = predicted["partition_label"].iloc[_first_best(predicted["predicted_latency_s"])]
    busiest = predicted["partition_label"].iloc[_first_best(-predicted["predicted_throughput_img_s"])]
    return (
        f"<table><thead><tr><th>{html.escape(str(row['partition_label']))}</th>"
        f"<th style='text-align:left'>holds / carries</th><th>predicted</th></tr></thead><tbody>{body}</tbody></table>"
        f"<p>Predicted: latency <b>{cell(latency)} ms</b>, throughput <b>{cell(throughput)} img/s</b>, "
        f"bottleneck {html.escape(str(row['predicted_bottleneck']))}. "
        f"Lowest latency at {html.escape(str(quickest))}, highest throughput at {html.escape(str(busiest))}. "
        "From the profile and the link as set above, not measured.</p>"
    )


def _first_best(values: pd.Series[float]) -> int:
    """Position of the smallest value; of equal ones the first, whatever the last digits say."""
    return int(values.round(9).to_numpy().argmin())


def _units(first: int, last: int) -> str:
    if last < first:
        return "nothing"
    return f"unit {first}" if first == last else f"units {first} to {last}"


def rate_options(asked: float | None) -> list[tuple[str, float]]:
    """Rates to choose from, slowest first, the one asked for among them; infinite is no limit."""
    rates = sorted({rate * 1e6 for rate in RATES_MBIT_S} | ({asked} if asked is not None else set()))
    return [*[(f"{rate * 1e-6:g} Mbit/s", rate) for rate in rates], ("no limit", math.inf)]


def _slowdown(words: str, value: float) -> RangeInput:
    """How many times slower than the profiled machine; below 1 is faster."""
    return RangeInput(words, numbers(0.1, max(20.0, value), 0.1, value, "times"), float(value))
