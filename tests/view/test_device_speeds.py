"""The curves of the devices' speeds: what is drawn, what is said, and that nothing is drawn across a pause."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pplib.errors import FrameError
from pplib.view import charts
from pplib.view.charts.speeds import device_speeds
from pplib.view.display import png_bytes
from pplib.view.sections.device_speeds import speeds_section


def timed(summary, seconds=6.0, **more):
    """Trials one after the other, on a device that gets slower by half and one that keeps its speed."""
    count = len(summary)
    start = pd.Timestamp("2026-03-01T22:00:00Z") + pd.to_timedelta(np.arange(count) * seconds, unit="s")
    speeds = {"stage0_speed": np.linspace(1.25, 0.75, count), "stage1_speed": 1.0}
    names = {"device_names": "pi + gpu", "devices": "two.yaml", "duration_s": seconds * 0.9}
    stamps = pd.Series(start, index=summary.index).dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return summary.assign(started_at=stamps, **{**names, **speeds, **more})


def later(summary, **apart):
    moved = pd.to_datetime(summary["started_at"]) + pd.Timedelta(**apart)
    return summary.assign(started_at=moved.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


@pytest.fixture
def few(make_summary):
    return timed(make_summary(depths=(1,), repeats=1))  # 40 trials of two backends, two of them failed


def rows_of(chart):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def marks(chart):
    return [row for row in rows_of(chart) if "device" in row]


def test_a_device_has_one_curve_over_the_minutes_of_all_configurations_without_what_failed(few):
    drawn = marks(charts.speeds_chart(device_speeds(few)))
    ok = few[few["status"] == "ok"]
    assert len(ok) == len(few) - 2
    for device, speed in (("pi", ok["stage0_speed"]), ("gpu", ok["stage1_speed"])):
        mine = [row for row in drawn if row["device"] == device]
        assert [row["speed"] for row in mine] == pytest.approx((speed * 100).tolist())
        assert [row["minute"] for row in mine] == pytest.approx([0.1 * i for i in ok.index])
        assert {row["piece"] for row in mine} == {0}, "one line, through socket and rpc"
        assert {row["trial"].partition(",")[0] for row in mine} == {"socket", "rpc"}


def test_the_sentence_names_the_device_that_changed_most_and_by_how_much(few):
    found = speeds_section(few)
    assert found.text.startswith(
        "The largest drift was that of pi: its speed changed by 50 % of the usual, from 125 % in minute 0.0 to 75 % in "
        "minute 3.9 (the others: gpu 0 %)."
    )
    assert found.name == "device-speeds"
    assert "temperature (°C)" not in titles(found.chart)
    assert png_bytes(found.chart, ppi=40).startswith(b"\x89PNG")


def titles(chart):
    return [layer["encoding"]["y"].get("title") for panel in chart.to_dict()["vconcat"] for layer in panel["layer"]]


def test_temperatures_have_a_panel_below_and_throttled_trials_a_mark_where_a_device_tells_them(few):
    hot = few.assign(
        stage0_temperature_c=np.linspace(50, 84, len(few)),
        stage0_throttled=(np.arange(len(few)) >= 35).astype(float),
        stage1_throttled=np.nan,
    )
    found = speeds_section(hot)
    assert "The warmest was pi, at 84 °C." in found.text
    assert "Held down for heat or lack of power (marked): pi in 5 of 38 trials." in found.text
    upper, lower = found.chart.to_dict()["vconcat"]
    assert lower["layer"][-1]["encoding"]["y"]["title"] == "temperature (°C)"
    assert lower["layer"][-1]["encoding"]["x"]["scale"] == upper["layer"][-1]["encoding"]["x"]["scale"]
    held = [row for row in marks(found.chart) if row["state"] == "throttled"]
    assert {row["device"] for row in held} == {"pi"} and len({row["minute"] for row in held}) == 5
    steady = hot.assign(stage0_speed=1.0)
    assert speeds_section(steady).chart is not None, "there is still heat to see"


def test_no_curve_crosses_a_pause_and_the_axis_gives_it_little_room(few):
    resumed = pd.concat([few, later(few, hours=14)], ignore_index=True)
    chart = charts.speeds_chart(device_speeds(resumed))
    drawn = marks(chart)
    assert {row["piece"] for row in drawn if row["minute"] < 60} == {0}
    assert {row["piece"] for row in drawn if row["minute"] > 60} == {1}
    assert max(row["at"] for row in drawn) < 2 * 4 + 1, "of fourteen hours"
    assert max(row["minute"] for row in drawn) == pytest.approx(14 * 60 + 3.9)
    assert [row["words"] for row in rows_of(chart) if "words" in row] == ["14 h"]
    assert "to 2026-03-02 12:03 UTC" in chart.to_dict()["title"]["subtitle"]
    axis = next(layer["encoding"]["x"]["axis"] for layer in chart.to_dict()["vconcat"][0]["layer"][1:])
    first = min(row["at"] for row in drawn if row["minute"] > 60)
    assert any(tick == pytest.approx(first) for tick in axis["values"]), "where it was resumed is told"


def test_a_device_that_others_were_measured_without_has_a_gap_of_its_own(few):
    other = later(few, minutes=4).assign(device_names="pi + fpga")
    again = later(few, minutes=8)
    drawn = marks(charts.speeds_chart(device_speeds(pd.concat([few, other, again], ignore_index=True))))
    pieces = {device: {row["piece"] for row in drawn if row["device"] == device} for device in ("pi", "gpu", "fpga")}
    assert pieces == {"pi": {0}, "gpu": {0, 1}, "fpga": {0}}


def test_two_devices_of_one_name_are_told_apart_by_their_device_files(few):
    merged = pd.concat([few, later(few, hours=1).assign(devices="lab/other.yaml")], ignore_index=True)
    names = set(device_speeds(merged)["device"])
    assert names == {"pi of two.yaml", "pi of other.yaml", "gpu of two.yaml", "gpu of other.yaml"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.drop(columns=["stage0_speed", "stage1_speed"]), "do not tell it"),
        (lambda one: one.assign(stage0_speed=np.nan, stage1_speed=np.nan), "do not tell it"),
        (lambda one: one.assign(started_at="once upon a time"), "do not tell it"),
        (lambda one: one.drop(columns="started_at"), "do not tell it"),
        (lambda one: one.assign(status="failed"), "do not tell it"),
        (lambda one: one.iloc[:0], "do not tell it"),
        (lambda one: one.iloc[:1], "One trial says nothing"),
        (lambda one: one.assign(stage0_speed=1.0), "No device's speed changed"),
    ],
)
def test_where_there_is_nothing_to_draw_a_sentence_says_so(few, change, said):
    found = speeds_section(change(few))
    assert found.chart is None and said in found.text


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.drop(columns=["device_names", "devices", "duration_s"]),
        lambda one: one.drop(columns="stage1_speed"),
        lambda one: one.assign(device_names=None),
        lambda one: one.iloc[[0, -1]],
        lambda one: pd.concat([one, *[later(one, hours=9 * i) for i in range(1, 10)]], ignore_index=True),
        lambda one: pd.concat([one.iloc[[0]], later(one.iloc[[1]], days=3)], ignore_index=True),
    ],
)
def test_what_results_lack_still_leaves_a_picture(few, change):
    chart = speeds_section(change(few)).chart
    assert png_bytes(chart, ppi=40).startswith(b"\x89PNG")
    assert all(np.isfinite([row["at"], row["speed"]]).all() for row in marks(chart))
    json.dumps(chart.to_dict(), allow_nan=False)


def test_no_speeds_are_refused_as_a_chart(few):
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.speeds_chart(device_speeds(few.iloc[:0]))
