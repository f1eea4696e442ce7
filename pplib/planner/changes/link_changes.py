"""What changes with the link, from trials: the cuts that were measured, thought over every other link."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.stage_levels import HashedTrials
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.robust import GROUP_KEYS
from pplib.columns import PREDICTABLE
from pplib.links import UNSHAPED
from pplib.planner.changes.measured_parts import measured_parts
from pplib.planner.changes.other_links import Line, Stretch, delays, front_until, rates, winners
from pplib.planner.cuts import PAYLOAD, Cuts, calibrated
from pplib.planner.profiles.hop_profile import fit_line


class MeasuredLink(NamedTuple):
    """A link that trials went over: what was asked for, else what it was measured to be.

    Attributes:
        name: of the link.
        rate_bit_s: headers included; infinite where it was neither asked for nor measured.
        delay_s: one way.
        asked_s: of that, what was asked for: the bare link's own is in what its hops take.
        lossy: whether it was to lose packets: how long a message takes is then no matter of rate and delay alone.
    """

    name: str
    rate_bit_s: float
    delay_s: float
    asked_s: float
    lossy: bool


class Check(NamedTuple):
    """What is told of a link, against what trials over it found: the best cut of both, and how much worse the first is.

    `worse` is by what share a microbatch or an image took longer there, as measured, than at the best measured.
    """

    link: str
    told: str
    best: str
    worse: float


@dataclass(frozen=True)
class LinkChanges:
    """What changes with the link for one configuration but for its link.

    Attributes:
        keys: `GROUP_KEYS` and their values.
        link: that the parts are of: the fastest of those that were measured.
        measured: all of them.
        cuts: that were measured over it; only these can win.
        chosen: objective -> the cut that is best over `link`, as estimated; and its value.
        by_rate: objective -> which cut wins, from the fastest rate that is known down, with the delay of `link`.
        by_delay: objective -> which cut wins as the delay grows, with the rate of `link`.
        front: points on the front over `link` -> the rate and the delay until which they are, see `front_until`.
        checks: objective -> for each other link that was measured, as far as anything can be told of it.
    """

    keys: Mapping[str, Any]
    link: MeasuredLink
    measured: list[MeasuredLink]
    cuts: Cuts
    chosen: Mapping[str, tuple[str, float]]
    by_rate: Mapping[str, list[Stretch]]
    by_delay: Mapping[str, list[Stretch]]
    front: Mapping[str, tuple[float | None, float | None]]
    checks: Mapping[str, list[Check]]


def link_changes(
    summary: pd.DataFrame, points: pd.DataFrame, objectives: Mapping[str, str], indifference: float
) -> list[LinkChanges]:
    """What changes with the link, for each configuration but for its link of which two cuts or more tell their parts.

    A hop's software is known where the link was fast: over a link of a rate a transfer takes the longer of the two. So
    the parts are those over the fastest link without losses, and nothing is said of faster ones.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        points: see `with_fronts`: what is best over that link, and on the front there.
        objectives: column -> "min" or "max"; those that no pipeline model knows are left out.
        indifference: what difference does not matter, as a share.

    Raises:
        FrameError: a column holds no numbers.
    """
    known = tuple((name, way) for name, way in objectives.items() if name in PREDICTABLE)
    return _remembered(HashedTrials(summary), HashedTrials(points), known, indifference)


@functools.lru_cache(maxsize=4)
def _remembered(
    of: HashedTrials, estimated: HashedTrials, objectives: tuple[tuple[str, str], ...], indifference: float
) -> list[LinkChanges]:
    summary, points, known, found = of.trials, estimated.trials, dict(objectives), list[LinkChanges]()
    for key, trials in summary[summary["status"] == "ok"].groupby(GROUP_KEYS, dropna=False, sort=False):
        links = [one for name, rows in trials.groupby("link", sort=False) if (one := _link(str(name), rows))]
        link = max(
            (one for one in links if not one.lossy), key=lambda one: (one.rate_bit_s, -one.delay_s), default=None
        )
        cuts = link and cuts_of_trials(trials[trials["link"] == link.name])
        if known and link and cuts and len(cuts.labels) > 1:
            keys = dict(zip(GROUP_KEYS, key, strict=True))
            found.append(_told(keys, link, links, cuts, _of(points, keys), known, indifference))
    return found


def cuts_of_trials(trials: pd.DataFrame) -> Cuts | None:
    """The cuts of one configuration, to be thought over other links; None where the trials do not tell their parts.

    Of what a hop takes that is fixed which a line through all sizes has at 0 bytes, less what the link itself took;
    with two sizes or less, nothing is.

    Args:
        trials: that succeeded, over one link.

    Raises:
        FrameError: a column holds no numbers.
    """
    parts = next(measured_parts(trials), None)
    if parts is None or not np.isfinite(parts.payload_bytes).all():
        return None
    sizes, took = parts.payload_bytes, np.asarray(parts.times.busy_s)
    fixed = []
    for size, seconds in zip(sizes.T, took.T, strict=True):
        usable = seconds > 0
        several = len(set(size[usable])) > 2
        fixed.append(fit_line(size[usable].tolist(), seconds[usable, None].tolist()).fixed_s if several else 0.0)
    link = _link("", trials)
    fastest = math.inf if link is None else link.rate_bit_s
    whole = trials["partition_name"] == "output" if "partition_name" in trials else pd.Series(False, index=trials.index)
    result = trials.loc[whole, "activation_bytes"].median() if "activation_bytes" in trials else math.nan
    return Cuts(
        labels=parts.labels,
        times=parts.times,
        payload_bytes=sizes,
        result_bytes=np.full((len(parts.labels), 1), result),
        fixed_s=np.maximum(np.minimum(np.array(fixed), took - sizes * 8 / PAYLOAD / fastest), 0.0),
        fastest_bit_s=fastest,
    )


def _link(name: str, rows: pd.DataFrame) -> MeasuredLink | None:
    """None where a link was shaped, and is not told how."""

    def median(column: str) -> float:
        there = column in rows.columns
        return float(numeric_column(rows, column, "the summary").median()) if there else math.nan

    rate, rtt = median("link_requested_forward_bit_s"), median("link_requested_rtt_s")
    if math.isnan(rtt) and name not in ("", UNSHAPED.name):
        return None
    goodput, seen = median("hop0_forward_before_bit_s"), median("hop0_rtt_before_s")
    lossy = np.nansum([median("link_requested_loss"), median("link_requested_backward_loss")]) > 0
    bare = math.inf if math.isnan(goodput) or lossy or rtt > 0 else goodput / PAYLOAD
    delay = rtt / 2 if rtt > 0 else (0.0 if math.isnan(seen) else seen / 2)
    asked = float(np.nan_to_num(rtt)) / 2
    return MeasuredLink(name, bare if math.isnan(rate) else rate, delay, asked, bool(lossy))


def _of(points: pd.DataFrame, keys: Mapping[str, Any]) -> pd.DataFrame:
    """The points of a configuration, over all its links."""
    wanted = pd.Series({key: str(value) for key, value in keys.items()})
    return points[(points[list(wanted.index)].astype("str") == wanted).all(axis=1)]


def _told(
    keys: Mapping[str, Any],
    link: MeasuredLink,
    links: list[MeasuredLink],
    cuts: Cuts,
    points: pd.DataFrame,
    known: Mapping[str, str],
    indifference: float,
) -> LinkChanges:
    of_cuts = points[points["partition_label"].isin(list(cuts.labels))].set_index("partition_label")
    here = of_cuts[of_cuts["link"] == link.name]
    chosen = dict[str, tuple[str, float]]()
    for name, way in known.items():
        best = here.dropna(subset=[name]).sort_values(name, ascending=way == "min", kind="stable")
        if len(best):
            chosen[name] = (str(best.index[0]), float(best[name].iloc[0]))
    estimates = here.reindex(list(cuts.labels))
    cuts = calibrated(
        cuts, {name: estimates[name].to_numpy(dtype=np.float64) for name in known}, link.rate_bit_s, link.asked_s
    )
    by_rate, by_delay = rates(cuts, link.asked_s), delays(link.rate_bit_s, link.asked_s)

    def won(line: Line) -> dict[str, list[Stretch]]:
        return {name: winners(cuts, name, known[name], line, indifference, [one[0]]) for name, one in chosen.items()}

    def until(label: str, line: Line) -> float | None:
        return front_until(cuts, label, known, line, indifference)

    front = {label: (until(label, by_rate), until(label, by_delay)) for label in here.index[here["on_front"]]}
    others = [one for one in links if one.name != link.name and not one.lossy and one.rate_bit_s <= link.rate_bit_s]
    checks = {
        name: [_check(cuts, name, way, one, of_cuts.loc[of_cuts["link"] == one.name, name].dropna()) for one in others]
        for name, way in known.items()
    }
    return LinkChanges(
        keys,
        link,
        links,
        cuts,
        chosen,
        won(by_rate),
        won(by_delay),
        front,
        {name: [one for one in found if one] for name, found in checks.items()},
    )


def _check(cuts: Cuts, name: str, way: str, link: MeasuredLink, measured: pd.Series[float]) -> Check | None:
    """None where no more than one cut was measured over the link."""
    common = [i for i, label in enumerate(cuts.labels) if label in measured.index]
    if len(common) < 2:
        return None
    there = np.array([measured[cuts.labels[i]] for i in common], dtype=np.float64)
    told = cuts.performance(np.array([link.rate_bit_s]), np.array([link.asked_s]), [name])[0, common, 0]
    if way == "max":
        there, told = 1 / there, 1 / told
    labels = [cuts.labels[i] for i in common]
    return Check(
        link.name, labels[told.argmin()], labels[there.argmin()], float(there[told.argmin()] / there.min()) - 1
    )
