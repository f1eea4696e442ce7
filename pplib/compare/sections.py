"""What is told of runs side by side: for the command and for `compare.ipynb`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pplib.analysis.estimated.device_ratios import device_ratios
from pplib.analysis.estimated.replication import changes, front_replication, statement_replication
from pplib.analysis.repeats import Numbers
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import INDIFFERENCE, OBJECTIVES, quantity
from pplib.compare.runs import Run
from pplib.view.difference_words import percent
from pplib.view.section import Section
from pplib.view.tables import configuration_columns

_FRONTS = (
    "Of the points that a run calls on a front, what the other says. A point that one has on the front and the other "
    "off it is contradicted; as good is one within {} or noise, not decided what is not off it for certain."
)
_CHANGES = (
    "What all points of a configuration share is the devices' speed that day. Listed are the points that changed by "
    "more than that and {}, beyond doubt: by which factor, and its 95 % interval."
)


def comparison_sections(runs: list[Run], indifference: float = INDIFFERENCE) -> list[Section]:
    """What they ran on, and the first beside every other.

    Args:
        runs: two or more, see `read_runs`.
        indifference: what difference does not matter, as a share.
    """
    found = [_ran_on_section(runs)]
    for other in runs[1:]:
        found += [_replication_section(runs[0], other, indifference), _changes_section(runs[0], other, indifference)]
    return found


def _ran_on_section(runs: list[Run]) -> Section:
    names = dict.fromkeys(name for run in runs for name in run.ran_on)
    table = pd.DataFrame({run.name: [run.ran_on.get(name, "") for name in names] for run in runs})
    table.insert(0, "what", list(names))
    differing = table[table[[run.name for run in runs]].nunique(axis=1) > 1].reset_index(drop=True)
    title = "What they ran on"
    if differing.empty:
        return Section(title, "Nothing that devices say of themselves differs.")
    return Section(title, f"{len(differing)} of {len(table)} facts differ.", table=differing)


def _replication_section(first: Run, other: Run, indifference: float) -> Section:
    fronts = front_replication(first.summary, other.summary, OBJECTIVES, indifference)
    said = statement_replication(first.summary, other.summary, list(OBJECTIVES))
    against = int(fronts["contradicted"].sum())
    score = 1 - against / len(fronts) if len(fronts) else float("nan")
    text = (
        f"Replicability {score:.0%}: of {len(fronts)} points that one of the two calls on a front, the other "
        f"contradicts {against}. Of {said.stated} differences stated at 95 %, {said.turned} are the other way round in "
        f"the other's estimates, and {said.opposed} in its statements."
    )
    table = fronts.rename(columns={"call_first": first.name, "call_second": other.name})
    shown = [*configuration_columns(table), "partition_label", first.name, other.name]
    return Section(
        f"{first.name} and {other.name}: the fronts",
        f"{text}\n\n{_FRONTS.format(percent(indifference))}",
        table=table[shown],
    )


def _changes_section(first: Run, other: Run, indifference: float) -> Section:
    found = changes(first.summary, other.summary, list(OBJECTIVES))
    found["column"] = [quantity(str(name)).name for name in found["column"]]
    lines = []
    telling = [key for key in CONFIGURATION_KEYS if key in ("backend", "in_flight") or found[key].nunique() > 1]
    for values, rows in found.groupby(telling, sort=False, dropna=False):
        named = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in zip(telling, values, strict=True))
        told = [f"{name} {one['common'].iloc[0] - 1:+.1%}" for name, one in rows.groupby("column", sort=False)]
        lines.append(f"All points of {named}: {', '.join(told)}.")
    lines += _device_changes(first, other)
    changed = found[(found["low"] > 1 + indifference) | (found["high"] < 1 - indifference)]
    title = f"{first.name} and {other.name}: what changed"
    more = "\n\n".join([_CHANGES.format(percent(indifference)), *lines])
    if changed.empty:
        return Section(title, more + "\n\nNo point did.")
    table = changed.assign(beyond=changed["ratio"] / changed["common"])
    shown = [*configuration_columns(table), "partition_label", "column", "beyond", "low", "high"]
    return Section(title, more, table=table[shown].reset_index(drop=True))


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
