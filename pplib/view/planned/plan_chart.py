"""What is predicted of every cut, as a front, with what was measured of some laid over it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from pplib.columns import OBJECTIVES, quantity

_CHOSEN = "#d7191c"
_FRONT, _REST = "#0072b2", "#bbbbbb"


def plan_chart(
    predicted: pd.DataFrame, chosen: str, measured: pd.DataFrame | None = None, width: int = 460, height: int = 300
) -> alt.TopLevelMixin:
    """Predicted throughput over predicted latency: the front in colour, one cut marked, bars are 95 % intervals.

    Args:
        predicted: one row per cut, see `predict_cuts`, and `predicted_on_front`.
        chosen: the label of one of them.
        measured: partition_label, latency_s and throughput_img_s of cuts that were measured; drawn as crosses, each
            with a line to what was predicted of it.
        width, height: in pixels.
    """
    rows = pd.DataFrame({"partition_label": predicted["partition_label"]})
    for name in OBJECTIVES:
        for end in ("", "_low", "_high"):
            rows[f"{name}{end}"] = predicted[f"predicted_{name}{end}"] * quantity(name).factor
    rows["kind"] = predicted["predicted_on_front"].map({True: "predicted front", False: "predicted"})
    rows.loc[rows["partition_label"] == chosen, "kind"] = "chosen"
    kinds = {"predicted front": _FRONT, "predicted": _REST, "chosen": _CHOSEN}
    x, y = ({end: f"{name}{end}:Q" for end in ("", "_low", "_high")} for name in ("latency_s", "throughput_img_s"))
    titles = [f"{quantity(name).name} ({quantity(name).unit})" for name in OBJECTIVES]
    scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart(rows).encode(
        x=alt.X(x[""], title=titles[0], scale=scale),
        y=alt.Y(y[""], title=titles[1], scale=scale),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(kinds), range=list(kinds.values())),
            legend=alt.Legend(title=None, orient="right"),
        ),
    )
    shown = base.transform_filter("datum.kind != 'predicted'")
    tooltip = [
        alt.Tooltip("partition_label:N", title="partition point"),
        alt.Tooltip(x[""], title=titles[0], format=".4~g"),
        alt.Tooltip(y[""], title=titles[1], format=".4~g"),
    ]
    layers: list[alt.Chart] = [
        shown.mark_rule(opacity=0.35).encode(x=x["_low"], x2=x["_high"].removesuffix(":Q")),
        shown.mark_rule(opacity=0.35).encode(y=y["_low"], y2=y["_high"].removesuffix(":Q")),
        base.mark_circle(size=60, opacity=0.95).encode(tooltip=tooltip),
        shown.mark_text(dx=6, dy=-7, align="left", fontSize=10).encode(text="partition_label:N"),
    ]
    if measured is not None and len(measured):
        there = measured[["partition_label"]].copy()
        for name in OBJECTIVES:
            there[f"{name}_measured"] = measured[name] * quantity(name).factor
        both = there.merge(rows, on="partition_label")
        over = alt.Chart(both).encode(x=alt.X("latency_s_measured:Q"), y=alt.Y("throughput_img_s_measured:Q"))
        layers += [
            over.mark_rule(color="#222222", strokeDash=[3, 3]).encode(x2="latency_s", y2="throughput_img_s"),
            over.mark_point(shape="cross", size=90, color="#222222", filled=True).encode(
                tooltip=[
                    alt.Tooltip("partition_label:N", title="partition point"),
                    alt.Tooltip("latency_s_measured:Q", title=f"measured {titles[0]}", format=".4~g"),
                    alt.Tooltip("throughput_img_s_measured:Q", title=f"measured {titles[1]}", format=".4~g"),
                ]
            ),
        ]
    return alt.layer(*layers).properties(width=width, height=height)
