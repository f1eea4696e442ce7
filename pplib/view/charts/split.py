"""What a model's units cost and a cut after them would send; and one chosen cut among all predicted ones."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import require_columns
from pplib.errors import FrameError
from pplib.view.layout.series import label_axis, labels_in_order

_PARTS = {
    "predicted_stage0_compute_s": ("stage 0 compute", "#9ecae1"),
    "predicted_hop0_transfer_s": ("hop 0 transfer", "#fd8d3c"),
    "predicted_stage1_compute_s": ("stage 1 compute", "#3182bd"),
}
_THROUGHPUT = "predicted_throughput_img_s"
_CHOSEN = "#d7191c"


def split_chart(
    predicted: pd.DataFrame, point: int, measured: pd.DataFrame | None = None, step: int = 32, height: int = 170
) -> alt.TopLevelMixin:
    """Predicted latency (stacked by its parts) and throughput over the partition point, one point marked.

    Args:
        predicted: see `predict_points`.
        point: the chosen partition point.
        measured: points of one configuration, see `point_table`; drawn as black marks where given.
        step: pixels per partition point.
        height: of each of the two panels, pixels.

    Raises:
        FrameError: a missing column, or the point is not among the predicted ones.
    """
    require_columns(predicted, ["partition_point", "partition_label", _THROUGHPUT, *_PARTS], "the prediction")
    known = predicted["partition_point"].tolist()
    if point not in known:
        raise FrameError(f"point {point}: expected one of {known[0]}..{known[-1]}")
    order = labels_in_order(predicted)
    x = alt.X("partition_label:N", sort=order, title="partition point", axis=label_axis(order))
    size = {"width": max(420, step * len(order)), "height": height}
    labels = predicted["partition_label"].astype("str")
    chosen = predicted["partition_point"] == point
    pieces = [
        pd.DataFrame(
            {"partition_label": labels, "part": words, "rank": rank, "time": predicted[name] * 1e3, "chosen": chosen}
        )
        for rank, (name, (words, _)) in enumerate(_PARTS.items())
    ]
    order_of_parts = [words for words, _ in _PARTS.values()]
    bars = (
        alt.Chart(pd.concat(pieces, ignore_index=True))
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("time:Q", title="latency (ms)", stack="zero"),
            order=alt.Order("rank:Q"),
            opacity=alt.condition("datum.chosen", alt.value(1.0), alt.value(0.5)),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=order_of_parts, range=[tone for _, tone in _PARTS.values()]),
                legend=alt.Legend(title="predicted", orient="right", labelLimit=200),
            ),
            tooltip=[
                alt.Tooltip("partition_label:N", title="partition point"),
                alt.Tooltip("part:N", title="part"),
                alt.Tooltip("time:Q", title="time (ms)", format=".4~g"),
            ],
        )
    )
    data = pd.DataFrame(
        {
            "partition_label": labels,
            "latency": sum(predicted[name] for name in _PARTS) * 1e3,
            "throughput": predicted[_THROUGHPUT],
            "rank": range(len(predicted)),
        }
    )
    line = alt.Chart(data).encode(x=x, y=alt.Y("throughput:Q", title="throughput (img/s)"))
    marked = alt.Chart(data[chosen.to_numpy()])
    latency = [bars, _mark(data[chosen.to_numpy()], x, "latency", "latency (ms)", "ms", dy=-12)]
    throughput = [
        line.mark_line(color="#888888").encode(order="rank:Q"),
        line.mark_point(filled=True, color="#888888", size=40, opacity=1),
        marked.mark_point(filled=True, color=_CHOSEN, size=110, opacity=1).encode(
            x=x, y=alt.Y("throughput:Q", title="throughput (img/s)")
        ),
        _mark(data[chosen.to_numpy()], x, "throughput", "throughput (img/s)", "img/s", dy=18),
    ]
    if measured is not None:
        require_columns(measured, ["partition_label", "latency_s", "throughput_img_s"], "the measured points")
        seen = alt.Chart(
            pd.DataFrame(
                {
                    "partition_label": measured["partition_label"].astype("str"),
                    "latency": measured["latency_s"] * 1e3,
                    "throughput": measured["throughput_img_s"],
                    "kind": "measured",
                }
            )
        ).mark_point(shape="cross", filled=True, size=70, opacity=1)
        black = alt.Shape("kind:N", scale=alt.Scale(range=["cross"]), legend=alt.Legend(title=None))
        seen = seen.encode(x=x, shape=black, color=alt.value("black"))
        latency.append(seen.encode(y=alt.Y("latency:Q", title="latency (ms)")))
        throughput.append(seen.encode(y=alt.Y("throughput:Q", title="throughput (img/s)")))
    return alt.vconcat(alt.layer(*latency).properties(**size), alt.layer(*throughput).properties(**size), spacing=12)


def _mark(
    chosen: pd.DataFrame, x: alt.X, field: str, title: str, unit: str, dy: int
) -> alt.LayerChart | alt.FacetChart:
    """The chosen point's value, beside it."""
    written = chosen.assign(text=[f"{value:.4g} {unit}" for value in chosen[field]])
    style: dict[str, Any] = {"dy": dy, "fontSize": 12, "fontWeight": "bold"}
    base = alt.Chart(written).encode(x=x, y=alt.Y(f"{field}:Q", title=title), text="text:N")
    # White below the letters: lines and marks run behind them.
    return alt.layer(
        base.mark_text(**style, stroke="white", strokeWidth=3, strokeJoin="round"),
        base.mark_text(**style, color=_CHOSEN),
    )


def profile_chart(profile: pd.DataFrame, step: int | None = None, height: int = 190) -> alt.TopLevelMixin:
    """Time of every unit above, size of the activation at the cut after it below, in one order.

    Args:
        profile: one row per unit: index, name, time_s, activation_bytes; time_min_s and time_max_s
            are drawn as ranges where given.
        step: pixels per unit; as wide as fits if not given.
        height: of each of the two panels, pixels.

    Raises:
        FrameError: a missing column, or no unit.
    """
    require_columns(profile, ["index", "name", "time_s", "activation_bytes"], "the profile")
    if profile.empty:
        raise FrameError("the profile: nothing to draw: it holds no unit")
    ordered = profile.sort_values("index")
    data = pd.DataFrame(
        {
            "unit": "P" + ordered["index"].astype("str") + "  " + ordered["name"].astype("str"),
            "time": ordered["time_s"] * 1e3,
            "time_min": ordered.get("time_min_s", ordered["time_s"]) * 1e3,
            "time_max": ordered.get("time_max_s", ordered["time_s"]) * 1e3,
            "activation": ordered["activation_bytes"] * 1e-6,
        }
    )
    order = data["unit"].tolist()
    many = len(order) > 40
    step = step or (13 if many else max(20, min(44, 840 // len(order))))
    axis = alt.Axis(labelAngle=-60, labelLimit=260, labelFontSize=9 if many else 11, labelOverlap=False)
    base = alt.Chart(data).properties(width=step * len(order), height=height)

    def x(labelled: bool) -> alt.X:
        title = "cut after this unit" if labelled else None
        return alt.X("unit:N", sort=order, title=title, axis=axis if labelled else alt.Axis(labels=False, ticks=False))

    tooltip = [
        alt.Tooltip("unit:N", title="unit"),
        alt.Tooltip("time:Q", title="time (ms)", format=".4~g"),
        alt.Tooltip("activation:Q", title="activation (MB)", format=".4~g"),
    ]
    bars = base.mark_bar(color="#3182bd").encode(
        x=x(False), y=alt.Y("time:Q", title="time of the unit (ms)"), tooltip=tooltip
    )
    ranges = base.mark_rule(color="#08306b").encode(
        x=x(False), y=alt.Y("time_min:Q", title="time of the unit (ms)"), y2="time_max:Q"
    )
    sizes = base.mark_bar(color="#fd8d3c").encode(
        x=x(True), y=alt.Y("activation:Q", title="activation at the cut (MB)"), tooltip=tooltip
    )
    return alt.vconcat(alt.layer(bars, ranges), sizes, spacing=8)
