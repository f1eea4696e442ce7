"""A cut that is good on every link: each point's regret, and the point whose worst regret is smallest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.pareto import DIRECTIONS, Mask
from pplib.analysis.repeats import POINT_KEYS, Numbers, point_name
from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, partition_key
from pplib.errors import FrameError

GROUP_KEYS = [key for key in CONFIGURATION_KEYS if key != "link"]
"""What must be equal for the links to be compared: one choice of a point is made for each of these."""

OF_THE_WORST = "worst_regret worst_regret_low worst_regret_high worst_link mean_regret minimax as_good".split()
"""What `minimax_regret` says of each point."""

Draws = Mapping[str, Numbers]
"""Of every point, by its `point_name`, what another sweep might have found: see `point_draws`."""

LEVEL = 0.95
"""The share of cases in which an interval should hold."""


def regret(points: pd.DataFrame, objective: Mapping[str, str], draws: Draws | None = None) -> pd.DataFrame:
    """How much worse than its link's best every point is, per model, backend, depth and so on.

    A ratio, no unit: value / best - 1 where less is better, best / value - 1 where more is. Both say by
    how much the time (of a microbatch, or of an image) is longer than the best: 0 is the best itself,
    0.25 is 25 % longer, 1 is twice as long. So a slow link and a quick one weigh the same.

    Of several points that may be the best the one that looks so owes it to its luck, and every regret against it would
    be too large. So with `draws` it is drawn towards the mean of those that cannot be told from it, by as much as noise
    alone sets them apart: all the way where they may be equal. What is better than that has no regret.

    Args:
        points: one row per configuration and point, see `point_estimates`; one link or several.
        objective: one column -> "min" or "max", such as {"latency_s": "min"}.
        draws: of that column.

    Returns:
        One row per group (`GROUP_KEYS`), link and point, for every point that the group has on any of
        its links: also `partition_label`, the column itself, `best`, `best_label` (all of the equally good, or
        not told from the best, "P3, P4"), `regret`, and its 95 % interval `regret_low` to `regret_high` (NaN
        without draws). A point that failed or is absent on a link has NaN there; so has every point of a link
        where nothing was measured.

    Raises:
        FrameError: not one objective, a column is missing or holds no numbers, a value is not above 0,
            or a point of a configuration comes twice.

    Source: shrinkage against the winner's curse, Efron and Morris (1975); that only those that cannot be told from the
    best have a say is ours.
    """
    return _regrets(points, objective, draws)[0]


def _regrets(
    points: pd.DataFrame, objective: Mapping[str, str], draws: Draws | None
) -> tuple[pd.DataFrame, Numbers | None]:
    """See `regret`; and its draws, (resamples, rows), where there are any."""
    name, direction = _one(objective)
    require_columns(points, [*CONFIGURATION_KEYS, "partition_point", "partition_label"], "the table of points")
    value = numeric_column(points, name, "the table of points")
    if "status" in points.columns:
        value = value.where((points["status"] == "ok").fillna(False))
    value = value.where(np.isfinite(value))
    if (value <= 0).any():
        raise FrameError(f"the table of points: column {name!r}: expected numbers above 0, got {value.min()}")
    table = points[[*CONFIGURATION_KEYS, "partition_point", "partition_label"]].assign(**{name: value})
    if table.duplicated([*CONFIGURATION_KEYS, "partition_point"]).any():
        raise FrameError(
            "the table of points: expected one row per configuration and point, got several: give it point_table(...)"
        )
    columns = [*GROUP_KEYS, "link", "partition_point", "partition_label", name, "best", "best_label"]
    columns += ["regret", "regret_low", "regret_high"]
    drawings = draws or {}
    resamples = max((len(one) for one in drawings.values()), default=0)
    pieces, drawn = list[pd.DataFrame](), list[Numbers]()
    for _, group in table.groupby(GROUP_KEYS, dropna=False, sort=False):
        known = group.drop_duplicates("partition_point")[[*GROUP_KEYS, "partition_point", "partition_label"]]
        known = known.sort_values("partition_point", key=lambda column: column.map(partition_key), kind="stable")
        for link, rows in group.groupby("link", dropna=False, sort=False):
            piece = known.assign(link=link).merge(rows[["partition_point", name]], on="partition_point", how="left")
            there = piece[name].notna().to_numpy()
            mine = np.full((resamples, len(piece)), np.nan)
            for i in np.flatnonzero(there).tolist():
                mine[:, i] = drawings.get(point_name(piece[POINT_KEYS].iloc[i].to_dict()), np.nan)
            found = _against_best(piece[name].to_numpy(dtype=np.float64), mine, direction)
            labels = piece.loc[found.as_good, "partition_label"].astype("str")
            low, high = _interval(found.drawn)
            piece = piece.assign(best=found.best, best_label=", ".join(labels) or None, regret=found.regret)
            pieces.append(piece.assign(regret_low=low, regret_high=high)[columns])
            drawn.append(found.drawn)
    if not pieces:
        return pd.DataFrame(columns=columns), None
    return pd.concat(pieces, ignore_index=True), np.concatenate(drawn, axis=1) if resamples else None


class _Against(NamedTuple):
    """The points of one link against its best."""

    best: float
    regret: Numbers
    drawn: Numbers  # (resamples, points)
    as_good: Mask


def _against_best(values: Numbers, drawn: Numbers, direction: str) -> _Against:
    """`values` has shape (points,), NaN where not measured; `drawn` (resamples, points), NaN where nothing is known."""
    there = np.isfinite(values)
    better = np.nanmin if direction == "min" else np.nanmax
    best = float(better(values)) if there.any() else float("nan")
    known = len(drawn) > 0 and there.any() and bool(np.isfinite(drawn[:, there]).all())
    bests = np.full((len(drawn), 1), np.nan)
    if known:
        weight = _best_weights(np.log(values[there]), np.log(drawn[:, there]), direction)
        best = float(np.exp(weight @ np.log(values[there])))
        bests = np.exp(np.log(drawn[:, there]) @ weight)[:, None]
    worse, drawn_worse = (values / best, drawn / bests) if direction == "min" else (best / values, bests / drawn)
    over, drawn_over = np.maximum(worse - 1, 0.0), np.maximum(drawn_worse - 1, 0.0)
    as_good = over == 0
    return _Against(best, over, drawn_over, as_good | (_interval(drawn_over)[0] == 0) if known else as_good)


def _best_weights(values: Numbers, drawn: Numbers, direction: str) -> Numbers:
    """How much each point counts for what the best is; `values` (points,), `drawn` (resamples, points): logarithms."""
    sign = 1.0 if direction == "min" else -1.0
    first = int(np.argmin(sign * values))
    told = (sign * drawn <= sign * drawn[:, [first]]).mean(axis=0) <= (1 - LEVEL) / 2
    weight = ~told / (~told).sum()
    apart, noise = (
        values[~told].var(),
        (drawn[:, ~told] - drawn[:, ~told].mean(axis=1, keepdims=True)).var(axis=0).mean(),
    )
    mean = min(1.0, noise / apart) if apart > 0 else 1.0
    return np.asarray(mean * weight + (1 - mean) * (np.arange(len(values)) == first), dtype=np.float64)


def _interval(drawn: Numbers) -> tuple[Numbers, Numbers]:
    """The ends of the interval of each column."""
    if not len(drawn):
        return np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def minimax_regret(points: pd.DataFrame, objective: Mapping[str, str], draws: Draws | None = None) -> pd.DataFrame:
    """The point to choose where the link is not known beforehand: the smallest worst regret.

    Only a point that was measured on every link of its group (on which anything was) can be chosen:
    what it does on the others is unknown. Equally good points are all chosen.

    Args:
        points: one row per configuration and point, see `point_table`.
        objective: one column -> "min" or "max".
        draws: of that column.

    Returns:
        One row per group (`GROUP_KEYS`) and point, the best first within its group: `partition_label`,
        `links` (of the group on which anything was measured), `links_measured` (of these, for the
        point), `worst_regret` (NaN unless measured on all of them), `worst_link` (the first of equals;
        None where there is no regret), `mean_regret` (over the links, each weighing the same),
        `minimax`: whether it is the choice, `worst_regret_low` and `worst_regret_high`, its 95 % interval (NaN
        without draws), and `as_good`: whether its worst regret cannot be told from the choice's.

    Raises:
        FrameError: as `regret`.

    Source: the minimax-regret rule (Savage 1951).
    """
    table, drawn = _regrets(points, objective, draws)
    columns = [*GROUP_KEYS, "partition_point", "partition_label", "links", "links_measured"]
    columns += OF_THE_WORST
    pieces = []
    for _, group in table[table["best"].notna()].groupby(GROUP_KEYS, dropna=False, sort=False):
        links = group["link"].nunique(dropna=False)
        rows, worsts = [], list[Numbers]()
        for _, cells in group.groupby("partition_point", sort=False):
            measured = int(cells["regret"].notna().sum())
            row = cells[[*GROUP_KEYS, "partition_point", "partition_label"]].iloc[0].to_dict()
            complete = measured == links
            worst = cells["regret"].max() if complete else np.nan
            mean = cells["regret"].mean() if complete else np.nan
            at = cells.loc[cells["regret"] == worst, "link"]
            # Regret 0 on every link: no link is the worst one.
            where = at.iloc[0] if len(at) and worst > 0 else None
            rows.append({**row, "links": links, "links_measured": measured, "worst_regret": worst})
            of_draws = drawn[:, cells.index].max(axis=1) if drawn is not None and complete else np.array([np.nan])
            worsts.append(of_draws)
            low, high = _interval(of_draws[:, None])
            rows[-1] |= {
                "worst_regret_low": low[0],
                "worst_regret_high": high[0],
                "worst_link": where,
                "mean_regret": mean,
            }
        piece = pd.DataFrame(rows)
        piece["minimax"] = piece["worst_regret"] == piece["worst_regret"].min()
        choice = next((worsts[i] for i in np.flatnonzero(piece["minimax"])), np.array([np.nan]))
        told = [bool((one <= choice).mean() > 1 - LEVEL) for one in worsts]
        piece["as_good"] = piece["minimax"] | pd.Series(told)
        pieces.append(piece.sort_values("worst_regret", kind="stable")[columns])
    found = pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)
    return found.astype({"minimax": bool, "as_good": bool})


def regret_table(points: pd.DataFrame, objective: Mapping[str, str], draws: Draws | None = None) -> pd.DataFrame:
    """The regrets of every point that was measured on all links of its group, links side by side.

    Args:
        points: one row per configuration and point, see `point_table`.
        objective: one column -> "min" or "max".
        draws: of that column.

    Returns:
        One row per group (`GROUP_KEYS`) and point, the best first within its group: `partition_point`,
        `partition_label`, `regret_on_<link>` for every link (NaN where the group was not measured on
        it), and what `minimax_regret` says of the worst of them.

    Raises:
        FrameError: as `regret`.
    """
    choice = minimax_regret(points, objective, draws)
    choice = choice[choice["worst_regret"].notna()].drop(columns=["links", "links_measured"])
    keys = [*GROUP_KEYS, "partition_point"]
    table = choice[[*keys, "partition_label"]]
    for link, cells in regret(points, objective, draws).groupby("link", dropna=False, sort=False):
        side = cells[[*keys, "regret"]].rename(columns={"regret": f"regret_on_{link}"})
        table = table.merge(side, on=keys, how="left")
    return table.assign(**{name: choice[name].to_numpy() for name in OF_THE_WORST})


def on_several_links(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of groups (`GROUP_KEYS`) that were measured on two links or more; the others say nothing here.

    Args:
        points: one row per configuration and point, see `point_table`.

    Raises:
        FrameError: a configuration key or the status is missing.
    """
    require_columns(points, [*CONFIGURATION_KEYS, "status"], "the table of points")
    group = points.groupby(GROUP_KEYS, dropna=False, sort=False).ngroup()
    links = points["link"].where(points["status"] == "ok").groupby(group).transform("nunique")
    return points[(links > 1).to_numpy()].reset_index(drop=True)


def stays_on_front(points: pd.DataFrame) -> pd.Series[bool]:
    """Which points are on the front of their configuration on every link of their group.

    Args:
        points: with `on_front`, see `fronts`; a point that failed is on no front.

    Returns:
        A boolean Series with the index of `points`, the same on every link; False throughout where a
        group was measured on one link only: nothing could have moved there.

    Raises:
        FrameError: a column is missing.
    """
    require_columns(points, [*CONFIGURATION_KEYS, "partition_label", "on_front"], "the table of points")
    rows = points.reset_index(drop=True)
    group = rows.groupby(GROUP_KEYS, dropna=False, sort=False).ngroup()
    # A link on which nothing was measured has no front to stay on.
    links = rows["link"].where(rows["on_front"]).groupby(group).transform("nunique")
    fronts = rows["on_front"].astype(int).groupby([group, rows["partition_label"]]).transform("sum")
    return pd.Series(((links > 1) & (fronts == links)).to_numpy(), index=points.index, name="stays", dtype=bool)


def _one(objective: Mapping[str, str]) -> tuple[str, str]:
    if len(objective) != 1:
        raise FrameError(f"objective: expected one, such as {{'latency_s': 'min'}}, got {list(objective)}")
    name, direction = next(iter(objective.items()))
    if direction not in DIRECTIONS:
        raise FrameError(f"objective[{name!r}]: expected 'min' or 'max', got {direction!r}")
    return name, direction
