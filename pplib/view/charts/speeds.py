"""How fast each device was while the trials ran, and how warm: curves over the sweep's time, without its pauses."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from pplib.errors import FrameError
from pplib.view.layout.labels import axis_over
from pplib.view.layout.series import with_series

PAUSE = 10.0
"""How many times the trials' usual distance nothing was measured where a curve ends, and goes on after a pause."""

_SHORTEST, _LONGEST = 1.0, 60.0  # minutes: less is never a pause, more always is one
_CUT = 0.06  # of the axis, for a pause of any length
_NAMED = 6  # pauses whose length is written; more would not be read
_TICKS = 9
_TONES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#525252")
_THROTTLED = "throttled"


def device_speeds(summary: pd.DataFrame) -> pd.DataFrame:
    """The speed of every device in every ok trial, in the order of time.

    Args:
        summary: one row per trial, the columns of `summary.csv`.

    Returns:
        One row per trial and device that has a speed: `device` (its name, or its stage where trials do not say; with
        its device file where several have the name), `started` (UTC), `minute` since the first trial, `ended`
        (likewise), `idle` (minutes in which nothing ran before it), `speed` (1 is usual), `temperature_c` (NaN where it
        does not tell), `throttled`, `series`, `partition_label`, `repeat`.

    Raises:
        FrameError: a column that names the configuration is missing.
    """
    stages = sum(f"stage{i}_speed" in summary.columns for i in range(summary.shape[1]))
    columns = "device started minute ended idle speed temperature_c throttled series partition_label repeat".split()
    if not stages or "started_at" not in summary.columns:
        return pd.DataFrame(columns=columns)
    started = pd.to_datetime(summary["started_at"], format="ISO8601", utc=True, errors="coerce")
    timed = with_series(summary).assign(started=started, minute=(started - started.min()).dt.total_seconds() / 60)
    timed = timed[timed["started"].notna()].sort_values("started", kind="stable")
    timed["ended"] = timed["minute"] + _numbers(timed, "duration_s").fillna(0) / 60
    timed["idle"] = timed["minute"] - timed["ended"].cummax().shift()
    timed = timed[timed["status"] == "ok"]
    told = [_names(row, stages) for row in timed.reindex(columns=["device_names"])["device_names"]]
    files = timed["devices"].astype("str") if "devices" in timed.columns else pd.Series("", index=timed.index)
    pieces = []
    for i in range(stages):
        piece = timed.assign(
            device=[names[i] for names in told],
            file=files,
            speed=_numbers(timed, f"stage{i}_speed"),
            temperature_c=_numbers(timed, f"stage{i}_temperature_c"),
            throttled=_numbers(timed, f"stage{i}_throttled") == 1,
        )
        pieces.append(piece[(piece["speed"] > 0) & (piece["speed"] < math.inf)])
    found = pd.concat(pieces).sort_values("started", kind="stable", ignore_index=True)
    several = found.groupby("device")["file"].transform("nunique") > 1
    found.loc[several, "device"] += " of " + found["file"].map(lambda path: Path(path).name).astype("str")
    return found.reindex(columns=columns)


def speeds_chart(speeds: pd.DataFrame, width: int = 760, height: int = 240) -> alt.TopLevelMixin:
    """A curve of speed per device, throttled trials marked, and one of temperature below where a device tells it.

    All configurations are in one line of time. A curve ends where nothing was measured for long; such a pause takes
    the same small room on the axis however long it was, and its length stands beside it.

    Args:
        speeds: see `device_speeds`.
        width: pixels.
        height: of the panel of speeds, pixels.

    Raises:
        FrameError: nothing to draw.
    """
    if speeds.empty:
        raise FrameError("the speeds: nothing to draw: expected ok trials with started_at and stage0_speed")
    time = _Time.over(speeds)
    data = pd.DataFrame(
        {
            "device": speeds["device"].astype("str"),
            "at": [time.place(minute) for minute in speeds["minute"]],
            "minute": speeds["minute"],
            "when": speeds["started"].dt.strftime("%Y-%m-%d %H:%M:%S UTC"),
            "speed": speeds["speed"] * 100,
            "temperature": speeds["temperature_c"],
            "state": speeds["throttled"].map({True: _THROTTLED, False: "no"}),
            "trial": speeds["series"] + ", " + speeds["partition_label"].astype("str"),
            "repeat": speeds["repeat"],
        }
    )
    # A device that others were measured without for long has a pause of its own.
    apart = speeds["minute"] - speeds.groupby("device")["ended"].shift() > time.limit
    data["piece"] = apart.groupby(data["device"]).cumsum().astype("int64")
    warm = bool(data["temperature"].notna().any())
    panels = [
        _panel(data, time, "speed", "speed against the usual (%)", not warm).properties(width=width, height=height)
    ]
    if warm:
        known = data[data["temperature"].notna()].reset_index(drop=True)
        panels.append(
            _panel(known, time, "temperature", "temperature (°C)", True).properties(width=width, height=height // 2)
        )
    first = speeds["started"].min() - pd.Timedelta(minutes=float(speeds["minute"].min()))
    last = speeds["started"].max()
    until = last.strftime("%H:%M UTC" if last.date() == first.date() else "%Y-%m-%d %H:%M UTC")
    title = alt.TitleParams(
        "How fast the devices were",
        subtitle=f"from {first:%Y-%m-%d %H:%M} to {until}; 100 % is what is usual of a device in these results",
        anchor="start",
        fontSize=14,
        subtitleFontSize=12,
    )
    return alt.vconcat(*panels, spacing=10).properties(title=title)


class _Time(NamedTuple):
    """Minutes since the first trial on an axis on which every pause takes the same room."""

    pieces: list[tuple[float, float]]  # first and last minute of what is between pauses
    cut: float
    limit: float

    @classmethod
    def over(cls, speeds: pd.DataFrame) -> _Time:
        """Cut where nothing ran for longer than is usual of these trials."""
        trials = speeds.drop_duplicates("minute").sort_values("minute")
        minutes = [float(one) for one in trials["minute"]]
        usual = float(trials["minute"].diff().median()) if len(minutes) > 1 else 0.0
        limit = min(max(PAUSE * usual, _SHORTEST), _LONGEST)
        begins = [minutes[0]]
        ends = []
        for before, (minute, idle) in zip(
            minutes, zip(minutes[1:], trials["idle"].iloc[1:], strict=True), strict=False
        ):
            if idle > limit:
                ends.append(before)
                begins.append(minute)
        pieces = list(zip(begins, [*ends, minutes[-1]], strict=True))
        measured = sum(end - begin for begin, end in pieces) or 1.0
        return cls(pieces, measured * min(_CUT, 1 / len(pieces)), limit)

    def piece(self, minute: float) -> int:
        return max(i for i, (begin, _) in enumerate(self.pieces) if minute >= begin)

    def shift(self, piece: int) -> float:
        """What a minute of a piece is more than its place on the axis."""
        gaps = sum(after[0] - before[1] for before, after in pairwise(self.pieces[: piece + 1]))
        return gaps - piece * self.cut

    def place(self, minute: float) -> float:
        return minute - self.shift(self.piece(minute))

    @property
    def end(self) -> float:
        return self.place(self.pieces[-1][1])

    def x(self, labelled: bool) -> alt.X:
        """The axis: its labels are the minutes, whatever pauses were cut out."""
        begin = self.place(self.pieces[0][0])
        room = (self.end - begin) * 0.02 or 0.5
        step = _nice((self.end - begin) / _TICKS)
        ticks = []
        for i, (first, last) in enumerate(self.pieces):
            near = [step * n for n in range(math.ceil(first / step), math.floor(last / step) + 1)]
            if i:  # where a piece begins is told; a round minute just beside it is not
                near = [first, *[one for one in near if one - first > step / 2]]
            ticks += [self.place(one) for one in near]
        # From the last piece to the first: a nested choice in Vega's own language.
        words = f"format(datum.value + {self.shift(0)!r}, ',.1~f')"
        for i in range(1, len(self.pieces)):
            border = self.place(self.pieces[i][0]) - self.cut / 2
            words = f"datum.value > {border!r} ? format(datum.value + {self.shift(i)!r}, ',.1~f') : ({words})"
        title = "minutes since the first trial" + (
            ", pauses (dashed, with their length) cut out" if len(self.pieces) > 1 else ""
        )
        axis: dict[str, Any] = {"values": ticks, "labelExpr": words, "labelOverlap": "greedy"}
        return alt.X(
            "at:Q",
            title=title if labelled else None,
            scale=alt.Scale(domain=[begin - room, self.end + room], nice=False),
            axis=alt.Axis(**axis, labels=labelled, ticks=labelled),
        )

    def pauses(self) -> pd.DataFrame:
        """Where they are on the axis, and how long, in words."""
        rows = [
            {"at": self.place(after[0]) - self.cut / 2, "words": _duration(after[0] - before[1])}
            for before, after in pairwise(self.pieces)
        ]
        return pd.DataFrame(rows, columns=["at", "words"])


def _panel(data: pd.DataFrame, time: _Time, field: str, title: str, labelled: bool) -> alt.LayerChart | alt.FacetChart:
    speed = field == "speed"
    shown = [*data[field], *([98.0, 102.0] if speed else [])]  # less of a change than that shall not look like one
    axis = axis_over(shown, 100, log_from=math.inf)
    y = alt.Y(f"{field}:Q", title=title, scale=alt.Scale(domain=[axis.low, axis.high], zero=False, nice=False))
    x = time.x(labelled)
    devices = sorted(data["device"].unique())
    tones = [_TONES[i % len(_TONES)] for i in range(len(devices))]
    colour = alt.Color(
        "device:N",
        scale=alt.Scale(domain=devices, range=tones),
        legend=alt.Legend(title=None, orient="bottom", columns=4, labelLimit=300),
    )
    tooltip = [
        alt.Tooltip("device:N"),
        alt.Tooltip("minute:Q", format=",.1f"),
        alt.Tooltip("when:N"),
        alt.Tooltip("speed:Q", title="speed against the usual (%)", format=".1f"),
        alt.Tooltip("temperature:Q", title="temperature (°C)", format=".1f"),
        alt.Tooltip("state:N", title="throttled"),
        alt.Tooltip("trial:N"),
        alt.Tooltip("repeat:Q"),
    ]
    layers: list[alt.Chart] = []
    if speed:
        usual = alt.Chart(pd.DataFrame({"speed": [100.0]})).mark_rule(color="#888888", strokeWidth=1)
        layers.append(usual.encode(y=y))
    pauses = time.pauses()
    if len(pauses):
        base = alt.Chart(pauses).encode(x=x)
        layers.append(base.mark_rule(color="#888888", strokeDash=[4, 3]))
        if speed and len(pauses) <= _NAMED:
            layers.append(base.mark_text(align="center", dy=-7, color="#666666").encode(y=alt.value(0), text="words:N"))
    base = alt.Chart(data).encode(x=x, y=y)
    layers += [
        base.mark_line(strokeWidth=1.5, opacity=0.8, strokeJoin="round").encode(color=colour, detail="piece:N"),
        base.mark_point(filled=True, size=18, opacity=1).encode(color=colour, tooltip=tooltip),
    ]
    held = data[data["state"] == _THROTTLED]
    if speed and len(held):
        shape = alt.Shape(
            "state:N", scale=alt.Scale(range=["triangle-down"]), legend=alt.Legend(title=None, orient="bottom")
        )
        marks = alt.Chart(held).mark_point(size=60, filled=False, strokeWidth=1.2, opacity=1)
        layers.append(marks.encode(x=x, y=y, shape=shape, color=alt.value("#111111"), tooltip=tooltip))
    return alt.layer(*layers)


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column as numbers, missing where there is none: not every device tells everything."""
    return pd.to_numeric(frame.reindex(columns=[name])[name], errors="coerce").astype("float64")


def _names(told: object, stages: int) -> list[str]:
    """The devices of a trial by stage.

    >>> _names("pi + gpu", 2), _names(None, 2)
    (['pi', 'gpu'], ['stage 0', 'stage 1'])
    """
    names = told.split(" + ") if isinstance(told, str) else []
    return [names[i] if i < len(names) else f"stage {i}" for i in range(stages)]


def _nice(step: float) -> float:
    """The next larger of 1, 2, 5, 10, ... times a power of ten.

    >>> [_nice(step) for step in (0.7, 13.0, 0.0)]
    [1.0, 20.0, 0.1]
    """
    if step <= 0:
        return 0.1
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)


def _duration(minutes: float) -> str:
    """A pause in words.

    >>> [_duration(minutes) for minutes in (4.2, 130.0, 4000.0)]
    ['4 min', '2 h', '3 days']
    """
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
