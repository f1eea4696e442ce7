"""Where the latency of a partition point goes: computing, transferring, waiting."""

from __future__ import annotations

import re

import altair as alt
import pandas as pd

from pplib.errors import FrameError
from pplib.view.layout.series import Panel, label_axis, labels_in_order, palette, panels, with_series

_PART = re.compile(r"(stage|hop)(\d+)_(compute|encode|queue|transfer|decode)_s")
_ORDER = ("compute", "encode", "queue", "transfer", "decode")
_COMPUTE = ("#9ecae1", "#3182bd", "#08519c", "#6baed6", "#2171b5", "#08306b")
_TRANSFER = ("#fd8d3c", "#d94801", "#fdae6b", "#a63603")
_CODE = ("#a1d99b", "#31a354", "#c7e9c0", "#006d2c")
_RETURN = "#9e9ac8"
_QUEUE = ("#d9d9d9", "#bdbdbd", "#969696", "#737373")


def latency_parts(columns: list[str]) -> dict[str, str]:
    """Column -> words of every part of the latency, in the order a microbatch meets them.

    >>> list(latency_parts(["hop0_transfer_s", "stage1_compute_s", "stage0_compute_s", "latency_s"]).values())
    ['stage 0 compute', 'hop 0 transfer', 'stage 1 compute']
    """
    found = []
    for name in columns:
        match = _PART.fullmatch(name)
        if match:
            lane, index, kind = match.groups()
            early = lane == "stage" and kind == "queue"  # a stage's wait is before its work, a hop's is in between
            found.append(
                (int(index), lane == "hop", -1 if early else _ORDER.index(kind), name, f"{lane} {index} {kind}")
            )
    return {name: words for *_, name, words in sorted(found)}


def decomposition_chart(trials: pd.DataFrame, width: int = 440, height: int = 240) -> alt.TopLevelMixin:
    """Stacked bars per partition point whose parts add up to the trial's mean latency.

    Args:
        trials: one trial per configuration and point, see `representative_trials`: medians over
            repeats would not add up. Any number of stages.
        width: of a panel, pixels; more where the bars need it.
        height: of a panel, pixels.

    Raises:
        FrameError: a missing column, or no part of a latency in it.
    """
    parts = _measured_parts(trials)
    frame = with_series(trials)
    names, _ = palette(frame)
    blocks = [_block(one, names, parts, width, height) for one in panels(frame)]
    return blocks[0] if len(blocks) == 1 else alt.vconcat(*blocks)


def chosen_parts_chart(
    trials: pd.DataFrame, chosen: alt.Parameter, width: int = 320
) -> alt.LayerChart | alt.FacetChart:
    """The parts of the mean latency of the point that is chosen in a `front_chart`, one after the other.

    After them comes the way of the output back to the first device, where it was measured: it is no part of the
    latency.

    Args:
        trials: one per `point_id`, a column, see `representative_trials`.
        chosen: the selection of one `point_id`.
        width: pixels.

    Raises:
        FrameError: no part of a latency in the trials.
    """
    parts = _measured_parts(trials)
    tones = _tones(list(parts.values()))
    if "return_transfer_s" in trials and trials["return_transfer_s"].max() > 0:
        parts, tones = {**parts, "return_transfer_s": "return"}, [*tones, _RETURN]
    words = list(parts.values())
    time = (trials[list(parts)].fillna(0.0) * 1e3).round(3)
    start = (time.cumsum(axis=1) - time).round(3)
    data = pd.DataFrame(
        {
            "point_id": trials["point_id"],
            "part": [words] * len(trials),
            "start": start.to_numpy().tolist(),
            "time": time.to_numpy().tolist(),
        }
    )
    base = (
        alt.Chart(data)
        .transform_filter(chosen)
        .transform_flatten(["part", "start", "time"])
        .transform_calculate(end="datum.start + datum.time")
        .encode(
            y=alt.Y("part:N", sort=words, title=None, axis=alt.Axis(labelFontSize=12, labelLimit=200)),
            tooltip=[alt.Tooltip("part:N"), alt.Tooltip("time:Q", title="mean time (ms)", format=".4~g")],
        )
    )
    bars = base.mark_bar().encode(
        x=alt.X("start:Q", title="mean time of a microbatch (ms)", scale=alt.Scale(zero=True)),
        x2="end:Q",
        color=alt.Color("part:N", scale=alt.Scale(domain=words, range=tones), legend=None),
    )
    # Beside the bar, on that side where there is more room.
    told = base.transform_joinaggregate(last="max(end)").encode(text=alt.Text("time:Q", format=".3~g"))
    left = "datum.start > datum.last / 2"
    figures = [
        told.transform_filter(left).mark_text(align="right", dx=-4).encode(x="start:Q"),
        told.transform_filter(f"!({left})").mark_text(align="left", dx=4).encode(x="end:Q"),
    ]
    return alt.layer(bars, *figures).properties(width=width, height=19 * len(words))


def _measured_parts(trials: pd.DataFrame) -> dict[str, str]:
    """Of the parts of a latency those that these trials have; see `latency_parts`.

    A queue that never made anything wait would only lengthen a legend; likewise what is not encoded.

    Raises:
        FrameError: none of them was measured.
    """
    parts = latency_parts([str(name) for name in trials.columns])
    parts = {name: words for name, words in parts.items() if trials[name].notna().any()}
    if not parts:
        raise FrameError(
            "the trials: nothing to draw: expected measured columns such as stage0_compute_s and hop0_transfer_s"
        )
    always = ("compute_s", "transfer_s")
    return {name: words for name, words in parts.items() if name.endswith(always) or trials[name].max() > 0}


def _block(panel: Panel, names: list[str], parts: dict[str, str], width: int, height: int) -> alt.ConcatChart:
    order = labels_in_order(panel.rows)
    words = list(parts.values())
    pieces = [
        pd.DataFrame(
            {
                "partition_label": panel.rows["partition_label"].astype("str"),
                "series": panel.rows["series"],
                "part": text,
                "rank": rank,
                "time": panel.rows[column].astype("float64") * 1e3,
            }
        )
        for rank, (column, text) in enumerate(parts.items())
    ]
    data = pd.concat(pieces, ignore_index=True)
    highest = float(data.groupby(["series", "partition_label"])["time"].sum().max())
    drawn = []
    for name in [name for name in names if name in set(data["series"])]:
        bars = (
            alt.Chart(data[data["series"] == name])
            .mark_bar()
            .encode(
                x=alt.X("partition_label:N", sort=order, title="partition point", axis=label_axis(order)),
                y=alt.Y("time:Q", title="mean latency (ms)", stack="zero", scale=alt.Scale(domain=[0, highest * 1.03])),
                color=alt.Color(
                    "part:N",
                    scale=alt.Scale(domain=words, range=_tones(words)),
                    sort=words,
                    legend=alt.Legend(title=None, orient="bottom", columns=5, labelLimit=300),
                ),
                order=alt.Order("rank:Q"),
                tooltip=[
                    alt.Tooltip("partition_label:N", title="partition point"),
                    alt.Tooltip("part:N", title="part"),
                    alt.Tooltip("time:Q", title="time (ms)", format=".4~g"),
                ],
            )
        )
        size = {"width": max(width, 26 * len(order)), "height": height}
        drawn.append(bars.properties(**size, title=alt.TitleParams(name, anchor="start")))
    title = alt.TitleParams(panel.title, anchor="start", fontSize=14)
    return alt.concat(*drawn, columns=2).properties(title=title)


def _tones(words: list[str]) -> list[str]:
    """Blue computes, orange transfers, grey waits; a tone per stage or hop."""
    kinds = {"compute": _COMPUTE, "transfer": _TRANSFER, "queue": _QUEUE, "encode": _CODE, "decode": _CODE[1:]}
    seen = dict.fromkeys(kinds, 0)
    tones = []
    for text in words:
        kind = text.split()[-1]
        tones.append(kinds[kind][seen[kind] % len(kinds[kind])])
        seen[kind] += 1
    return tones
