"""What is told of runs side by side: for the command and for `compare.ipynb`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pplib.analysis.estimated.device_ratios import device_ratios
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.replication import changes, front_replication, statement_replication
from pplib.analysis.estimated.uncertainty import front_probability
from pplib.analysis.repeats import POINT_KEYS, Numbers, point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import quantity
from pplib.compare.runs import Run
from pplib.objectives import Aims
from pplib.view.charts.front_by import fronts_by_run_chart
from pplib.view.section import Section
from pplib.view.table_html import cell
from pplib.view.tables import configuration_columns
from pplib.view.words.differences import percent

_FRONTS = (
    "Of the points that a run calls on a front, what the other says. A point that one has on the front and the other "
    "off it is contradicted; as good is one within {} or noise, not decided what is not off it for certain."
)
_CHART = (
    "In the chart the points of both runs lie over each other, each at the usual speed of its devices that day; bars "
    "are 95 % intervals of what is on a front. A ring marks what changed by more than all points of its configuration "
    "did together, and by more than {}, beyond doubt."
)
_CHANGES = (
    "What all points of a configuration share is the devices' speed that day. Listed are the points that changed by "
    "more than that and {}, beyond doubt: what either run says, the factor beyond what all share, and its 95 % "
    "interval."
)
_NOTHING = "No configuration has ok trials with the same setup in both: what each has is told above."

Points = tuple[pd.DataFrame, pd.DataFrame]


def comparison_sections(runs: list[Run], aims: Aims | None = None) -> list[Section]:
    """What was compared, what it ran on, and the first run beside every other.

    Args:
        runs: two or more, see `read_runs`.
        aims: what fronts are of, and what difference does not matter; limits are not looked at.

    Raises:
        FrameError: the runs cannot be estimated, see `estimates`.
    """
    aims, lacking = aims or Aims(), list[str]()
    for run in runs:
        aims, told = aims.known(run.summary)
        lacking += [f"{run.name}: {one}" for one in told]
    points = {run.name: _points(run, aims) for run in runs}
    found = [_compared_section(runs, lacking), _ran_on_section(runs)]
    for number, other in enumerate(runs[1:], start=2):
        pair = {run.name: points[run.name] for run in (runs[0], other)}
        if not set.intersection(*(_measured(one, aims) for one in pair.values())):
            found.append(Section(f"{runs[0].name} and {other.name}", _NOTHING))
            continue
        changed = changes(runs[0].summary, other.summary, list(aims.objectives))
        beyond = changed[(changed["low"] > 1 + aims.indifference) | (changed["high"] < 1 - aims.indifference)]
        found.append(_replication_section(runs[0], other, pair, beyond, f"fronts-1-{number}", aims))
        found.append(_changes_section(runs[0], other, pair, changed, beyond, aims.indifference))
    return found


def _measured(points: Points, aims: Aims) -> set[str]:
    """The configurations that a run has figures of."""
    told = points[0][points[0][list(aims.objectives)].notna().all(axis=1)]
    return {point_name({**row, "partition_point": None, "partition_label": None}) for row in told.to_dict("records")}


def _points(run: Run, aims: Aims) -> Points:
    sure = front_probability(run.summary, aims.objectives, indifference=aims.indifference)
    return point_estimates(run.summary, columns=aims.objectives), sure


def _compared_section(runs: list[Run], lacking: list[str]) -> Section:
    """Every configuration with all that names it, and how many trials each run has of it."""
    counts = {}
    for run in runs:
        trials = run.summary.assign(ok=run.summary["status"] == "ok").astype(dict.fromkeys(CONFIGURATION_KEYS, "str"))
        found = trials.groupby(CONFIGURATION_KEYS, sort=False)["ok"].agg(["sum", "size"])
        words = [f"{ok} ok" + (f", {size - ok} failed" if size > ok else "") for ok, size in found.to_numpy()]
        counts[run.name] = pd.Series(words, index=found.index)
    table = pd.DataFrame(counts)
    shared = int(table.notna().all(axis=1).sum())
    table = table.fillna("-").reset_index()
    table = table.loc[:, [name not in CONFIGURATION_KEYS or (table[name] != "").any() for name in table.columns]]
    lines = [f"{shared} of {len(table)} configurations are in every run; trials of each:"]
    lines += [f"- {run.name}: {len(run.summary)} trials{_when(run)}" for run in runs]
    text = "\n\n".join([lines[0], "\n".join(lines[1:]), *lacking])
    return Section("What was compared", text, table=_kept(table, runs))


def _when(run: Run) -> str:
    told = run.summary.reindex(columns=["started_at"])["started_at"]
    started = pd.to_datetime(told, format="ISO8601", utc=True, errors="coerce").dropna()
    return f", {started.min():%Y-%m-%d %H:%M} to {started.max():%Y-%m-%d %H:%M} UTC" if len(started) else ""


def _kept(table: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """What runs say stays a column each, also where it is the same in every row."""
    table.attrs["kept"] = [run.name for run in runs]
    return table


def _ran_on_section(runs: list[Run]) -> Section:
    names = dict.fromkeys(name for run in runs for name in run.ran_on)
    table = pd.DataFrame({run.name: [run.ran_on.get(name, "") for name in names] for run in runs})
    table.insert(0, "what", list(names))
    differing = table[table[[run.name for run in runs]].nunique(axis=1) > 1].reset_index(drop=True)
    title = "What they ran on"
    if differing.empty:
        return Section(title, "Nothing that devices say of themselves differs.")
    return Section(title, f"{len(differing)} of {len(table)} facts differ.", table=_kept(differing, runs))


def _replication_section(
    first: Run, other: Run, points: dict[str, Points], beyond: pd.DataFrame, name: str, aims: Aims
) -> Section:
    title = f"{first.name} and {other.name}: the fronts"
    fronts = front_replication(first.summary, other.summary, aims.objectives, aims.indifference)
    said = statement_replication(first.summary, other.summary, list(aims.objectives))
    against = int(fronts["contradicted"].sum())
    text = (
        f"Replicability {1 - against / len(fronts):.0%}: of {len(fronts)} points that one of the two calls on a front, "
        f"the other contradicts {against}. Of {said.stated} differences stated at 95 %, {said.turned} are the other "
        f"way round in the other's estimates, and {said.opposed} in its statements."
    )
    table = fronts.rename(columns={"call_first": first.name, "call_second": other.name})
    shown = [*configuration_columns(table), "partition_label", first.name, other.name]
    drawn = dict(itertools.islice(aims.objectives.items(), 2))  # a picture has two axes
    chart = fronts_by_run_chart(points, beyond, drawn) if len(drawn) == 2 else None
    words = [_FRONTS, _CHART] if chart is not None else [_FRONTS]
    more = "\n\n".join(one.format(percent(aims.indifference)) for one in words)
    if len(aims.objectives) > 2:
        more += f" It shows {' and '.join(quantity(name).name for name in drawn)}; the fronts are of all objectives."
    return Section(title, f"{text}\n\n{more}", chart, _kept(table[shown], [first, other]), name)


def _changes_section(
    first: Run,
    other: Run,
    points: dict[str, Points],
    found: pd.DataFrame,
    beyond: pd.DataFrame,
    indifference: float,
) -> Section:
    title = f"{first.name} and {other.name}: what changed"
    lines = []
    telling = [key for key in CONFIGURATION_KEYS if key in ("backend", "in_flight") or found[key].nunique() > 1]
    for values, rows in found.groupby(telling, sort=False, dropna=False):
        named = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in zip(telling, values, strict=True))
        common = rows.drop_duplicates("column").set_index("column")["common"]
        told = [f"{quantity(str(name)).name} {ratio - 1:+.1%}" for name, ratio in common.items()]
        lines.append(f"All points of {named}: {', '.join(told)}.")
    lines += _device_changes(first, other)
    more = "\n\n".join([_CHANGES.format(percent(indifference)), *lines])
    if beyond.empty:
        return Section(title, more + "\n\nNo point did.")
    table = beyond.assign(
        quantity=[quantity(str(name)).name for name in beyond["column"]],
        **{name: _values(beyond, one) for name, (one, _) in points.items()},
        changed_by=beyond["ratio"] / beyond["common"],
        changed_by_low=beyond["low"],
        changed_by_high=beyond["high"],
    )
    shown = [*configuration_columns(table), "partition_label", "quantity", *points]
    shown += ["changed_by", "changed_by_low", "changed_by_high"]
    return Section(title, more, table=_kept(table[shown].reset_index(drop=True), [first, other]))


def _values(changed: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """What a run says of each point and column that changed, in the unit it is shown in."""
    known = {point_name(row): row for row in points.to_dict("records")}
    measured = [known[point_name(row)] for row in changed[POINT_KEYS].to_dict("records")]
    columns = [quantity(str(name)) for name in changed["column"]]
    return [
        f"{cell(float(row[one.column]) * one.factor)} {one.unit}" for row, one in zip(measured, columns, strict=True)
    ]


def _device_changes(first: Run, other: Run) -> Iterator[str]:
    """What devices take for the same work against the first of their pipeline: by how much that changed."""
    both = pd.concat([first.summary.assign(setup="first"), other.summary.assign(setup="other")], ignore_index=True)
    found = {(str({**one.keys, "setup": ""}), one.device, str(one.keys["setup"])): one for one in device_ratios(both)}
    changes: dict[tuple[str, str], list[tuple[float, Numbers]]] = {}
    for (keys, device, run), one in found.items():
        theirs = found.get((keys, device, "other")) if run == "first" else None
        if theirs is not None and theirs.against == one.against:
            change = (np.log(theirs.ratio / one.ratio), np.log(theirs.draws / one.draws))
            changes.setdefault((device, one.against), []).append(change)
    for (device, against), each in changes.items():
        ratio = np.exp(np.mean([value for value, _ in each]))
        low, high = np.exp(np.quantile(np.mean([drawn for _, drawn in each], axis=0), [0.025, 0.975]))
        yield (
            f"What {device} takes for the same work as {against}, against the first: {ratio - 1:+.1%} "
            f"({low - 1:+.1%} to {high - 1:+.1%})."
        )
