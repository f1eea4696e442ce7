"""What was predicted of every measured cut, against what was measured."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from pplib.columns import OBJECTIVES, quantity
from pplib.view.layout.series import palette, with_series

_SIZE = 300


def predicted_chart(points: pd.DataFrame) -> alt.TopLevelMixin:
    """Measured over predicted, one panel for latency and one for throughput; on the line both are equal.

    A horizontal bar is the predicted interval, a vertical one what the measured figure may be.

    Args:
        points: one row per configuration and cut, see `point_estimates`, with `predicted_*`.
    """
    data = with_series(points)
    series, colours = palette(data)
    return alt.hconcat(*(_panel(data, name, series, colours) for name in OBJECTIVES))


def _panel(data: pd.DataFrame, name: str, series: list[str], colours: list[str]) -> alt.LayerChart | alt.FacetChart:
    measure = quantity(name)
    columns = {
        f"{kind}{end}": data[f"{prefix}{name}{end}"].to_numpy(dtype=np.float64) * measure.factor
        for kind, prefix in (("predicted", "predicted_"), ("measured", ""))
        for end in ("", "_low", "_high")
    }
    rows = pd.DataFrame({"series": data["series"], "partition_label": data["partition_label"], **columns}).dropna(
        subset=["predicted", "measured"]
    )
    values = rows[["predicted", "measured"]].to_numpy()
    ends = [float(values.min()) * 0.9, float(values.max()) * 1.1]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    base = alt.Chart(rows).encode(
        x=alt.X("predicted:Q", scale=scale, title=f"predicted {measure.name} ({measure.unit})"),
        y=alt.Y("measured:Q", scale=scale, title=f"measured {measure.name} ({measure.unit})"),
        color=alt.Color(
            "series:N", scale=alt.Scale(domain=series, range=colours), legend=alt.Legend(title=None, symbolOpacity=1)
        ),
    )
    told = [
        alt.Tooltip("series:N", title="configuration"),
        alt.Tooltip("partition_label:N", title="partition point"),
        *(
            alt.Tooltip(f"{kind}{end}:Q", format=".4~g", title=f"{kind}{words}")
            for kind in ("predicted", "measured")
            for end, words in (("", ""), ("_low", ", from"), ("_high", ", to"))
        ),
    ]
    line = alt.Chart(pd.DataFrame({"predicted": ends, "measured": ends})).mark_line(color="#999999", strokeDash=[4, 3])
    return alt.layer(
        line.encode(x=alt.X("predicted:Q", scale=scale), y=alt.Y("measured:Q", scale=scale)),
        base.mark_rule(opacity=0.3, clip=True).encode(x="predicted_low:Q", x2="predicted_high:Q"),
        base.mark_rule(opacity=0.3, clip=True).encode(y="measured_low:Q", y2="measured_high:Q"),
        base.mark_circle(size=45, opacity=0.9).encode(tooltip=told),
    ).properties(width=_SIZE, height=_SIZE)
