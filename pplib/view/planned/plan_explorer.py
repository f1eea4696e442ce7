"""Choose a plan: link, depth and a limit as controls, the predicted front, what stands on which device, a button."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import ipywidgets
import numpy as np
import pandas as pd

from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.errors import ParetoPipeError
from pplib.links import Direction, LinkProfile
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.plan_quality import predicted_front
from pplib.planner.prediction import predict_cuts
from pplib.records import TrialRecord
from pplib.view.display import png_bytes
from pplib.view.planned.plan_chart import plan_chart
from pplib.view.range_input import RangeInput, numbers
from pplib.view.table_html import cell
from pplib.view.widgets import Explorer, rate_options

DRAWS = 60
Measure = Callable[[tuple[int, ...]], TrialRecord]
"""Measures a cut on the live devices, over the link and at the depth that were asked for."""


class PlanExplorer(Explorer):
    """Controls, a table and a picture that follow each other.

    The controls are `point` (the place of a cut among `points`), `rate` (bit/s, infinite for no limit), `delay` (ms,
    one way), `in_flight` and `latency_limit` (ms, infinite for none); `button` measures. `table` is an HTML widget,
    `picture` a PNG image, `predicted` the frame behind both, `measured` what the button found so far.

    Args:
        pipeline: of profiles; its link and depth are where the controls stand first.
        points: the cuts.
        devices: names, in stage order.
        measure: see `Measure`; without it there is no button.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        points: Sequence[tuple[int, ...]],
        devices: Sequence[str],
        measure: Measure | None = None,
    ) -> None:
        self._pipeline, self._points, self._devices, self._measure = pipeline, list(points), devices, measure
        self.measured = pd.DataFrame(columns=["partition_label", *OBJECTIVES])
        link = pipeline.link.forward
        asked = link.rate_bit_s
        self.rate = RangeInput("link rate", rate_options(asked), math.inf if asked is None else asked)
        delay = link.delay_s * 1e3
        self.delay = RangeInput("link delay, one way", numbers(0, max(300, delay), 0.5, delay, "ms"), delay)
        depths = [(str(depth), depth) for depth in range(1, max(8, pipeline.in_flight) + 1)]
        self.in_flight = RangeInput("in flight", depths, pipeline.in_flight)
        self._predict()
        ends = self.predicted["predicted_latency_s"] * 1e3
        steps = sorted({float(f"{one:.3g}") for one in np.geomspace(ends.min(), ends.max() * 1.2, 40)})
        limits = [*((f"{one:g} ms", one) for one in steps), ("no limit", math.inf)]
        self.latency_limit = RangeInput("latency at most", limits, math.inf)
        named = [(str(label), i) for i, label in enumerate(self.predicted["partition_label"])]
        self.point = RangeInput("cut", named, self.best())
        self.button = ipywidgets.Button(description="Measure this cut", disabled=measure is None)
        self.said = ipywidgets.HTML()
        self.table = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png")
        for control in (self.rate, self.delay, self.in_flight, self.latency_limit):
            control.observe(self._changed, names="value")
        self.point.observe(self._show, names="value")
        self.button.on_click(self._measure_now)
        self._show()
        controls = [self.rate, self.delay, self.in_flight, self.latency_limit, self.point]
        buttons = [self.button] if measure is not None else []
        super().__init__([*controls, self.table, self.picture, *buttons, self.said])

    def best(self) -> int:
        """The place of the cut with the highest predicted throughput within the limit; without any, of the quickest."""
        latency, throughput = (self.predicted[f"predicted_{name}"].to_numpy(dtype=np.float64) for name in OBJECTIVES)
        within = latency <= self.latency_limit.value * 1e-3
        return int(np.where(within, throughput, -np.inf).argmax()) if within.any() else int(latency.argmin())

    def _predict(self) -> None:
        rate = None if math.isinf(self.rate.value) else self.rate.value
        way = Direction(rate_bit_s=rate, delay_s=self.delay.value * 1e-3)
        link = LinkProfile(name="chosen", forward=way, backward=way)
        pipeline = replace(self._pipeline, link=link, in_flight=self.in_flight.value)
        table = predict_cuts(pipeline, self._points, draws=DRAWS)
        self.predicted = table.assign(predicted_on_front=predicted_front(table, INDIFFERENCE))

    def _changed(self, _change: object) -> None:
        self._predict()
        chosen = self.best()
        if chosen == self.point.value:
            self._show()
        else:
            self.point.value = chosen  # which shows it

    def _show(self, _change: object = None) -> None:
        label = str(self.predicted["partition_label"].iloc[self.point.value])
        self.table.value = self._stages_html(self.point.value)
        self.picture.value = png_bytes(plan_chart(self.predicted, label, self.measured), ppi=90)

    def _stages_html(self, place: int) -> str:
        """What stands on which device, and what crosses, as an escaped table."""
        row, points = self.predicted.iloc[place], self._points[place]
        last = len(self._pipeline.activation_bytes) - 1
        ends, rows = [0, *points, last], list[tuple[str, str, str]]()
        for i, name in enumerate(self._devices[: len(points) + 1]):
            first, end = ends[i], ends[i + 1]
            held = "nothing" if first == end else f"units {first + 1} to {end}"
            rows.append((name, held, f"{cell(self._pipeline.stages[i].at(first, end).seconds * 1e3)} ms"))
            if i < len(points):
                size = self._pipeline.activation_bytes[end] * 1e-6
                rows.append(("", f"{cell(size)} MB cross", ""))
        body = "".join(
            f"<tr><th>{html.escape(one)}</th><td style='text-align:left'>{html.escape(what)}</td><td>{took}</td></tr>"
            for one, what, took in rows
        )
        latency, throughput = (
            [float(row[f"predicted_{name}{end}"]) * factor for end in ("", "_low", "_high")]
            for name, factor in zip(OBJECTIVES, (1e3, 1.0), strict=True)
        )
        return (
            f"<table><thead><tr><th>{html.escape(str(row['partition_label']))}</th>"
            f"<th style='text-align:left'>holds</th><th>computes</th></tr></thead><tbody>{body}</tbody></table>"
            f"<p>Predicted: latency <b>{cell(latency[0])} ms</b> ({cell(latency[1])} to {cell(latency[2])}), "
            f"throughput <b>{cell(throughput[0])} img/s</b> ({cell(throughput[1])} to {cell(throughput[2])}), "
            f"bottleneck {html.escape(str(row['predicted_bottleneck']))}.</p>"
        )

    def _measure_now(self, _button: object) -> None:
        """Measure the chosen cut, over the link and at the depth of the notebook's parameters."""
        if self._measure is None:
            return
        label = str(self.predicted["partition_label"].iloc[self.point.value])
        self.button.disabled, self.said.value = True, f"measuring {html.escape(label)}"
        try:
            record = self._measure(self._points[self.point.value])
        except ParetoPipeError as exc:
            self.said.value = f"error: {html.escape(str(exc))}"
            return
        finally:
            self.button.disabled = False
        found = {name: float(record.metrics[name] or math.nan) for name in OBJECTIVES}
        others = self.measured[self.measured["partition_label"] != label]
        self.measured = pd.DataFrame([*others.to_dict("records"), {"partition_label": label, **found}])
        self.said.value = (
            f"{html.escape(label)} measured: {cell(found['latency_s'] * 1e3)} ms, "
            f"{cell(found['throughput_img_s'])} img/s"
        )
        self._show()
