"""A cut that is good on every link: each point's regret, and the point whose worst regret is smallest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pplib.analysis.pareto import DIRECTIONS
from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, partition_key
from pplib.errors import FrameError

GROUP_KEYS = [key for key in CONFIGURATION_KEYS if key != "link"]
"""What must be equal for the links to be compared: one choice of a point is made for each of these."""


def regret(points: pd.DataFrame, objective: Mapping[str, str]) -> pd.DataFrame:
    """How much worse than its link's best every point is, per model, backend, depth and so on.

    A ratio, no unit: value / best - 1 where less is better, best / value - 1 where more is. Both say by
    how much the time (of a microbatch, or of an image) is longer than the best: 0 is the best itself,
    0.25 is 25 % longer, 1 is twice as long. So a slow link and a quick one weigh the same.

    Args:
        points: one row per configuration and point, see `point_table`; one link or several.
        objective: one column -> "min" or "max", such as {"latency_s": "min"}.

    Returns:
        One row per group (`GROUP_KEYS`), link and point, for every point that the group has on any of
        its links: also `partition_label`, the column itself, `best`, `best_label` (all of the equally
        good, "P3, P4") and `regret`. A point that failed or is absent on a link has NaN there; so has
        every point of a link where nothing was measured.

    Raises:
        FrameError: not one objective, a column is missing or holds no numbers, a value is not above 0,
            or a point of a configuration comes twice.
    """
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
    columns = [*GROUP_KEYS, "link", "partition_point", "partition_label", name, "best", "best_label", "regret"]
    pieces = []
    for _, group in table.groupby(GROUP_KEYS, dropna=False, sort=False):
        known = group.drop_duplicates("partition_point")[[*GROUP_KEYS, "partition_point", "partition_label"]]
        known = known.sort_values("partition_point", key=lambda column: column.map(partition_key), kind="stable")
        for link, rows in group.groupby("link", dropna=False, sort=False):
            piece = known.assign(link=link).merge(rows[["partition_point", name]], on="partition_point", how="left")
            best = piece[name].min() if direction == "min" else piece[name].max()
            worse = piece[name] / best if direction == "min" else best / piece[name]
            labels = piece.loc[piece[name] == best, "partition_label"].astype("str")
            pieces.append(piece.assign(best=best, best_label=", ".join(labels) or None, regret=worse - 1)[columns])
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)


def minimax_regret(points: pd.DataFrame, objective: Mapping[str, str]) -> pd.DataFrame:
    """The point to choose where the link is not known beforehand: the smallest worst regret.

    Only a point that was measured on every link of its group (on which anything was) can be chosen:
    what it does on the others is unknown. Equally good points are all chosen.

    Args:
        points: one row per configuration and point, see `point_table`.
        objective: one column -> "min" or "max".

    Returns:
        One row per group (`GROUP_KEYS`) and point, the best first within its group: `partition_label`,
        `links` (of the group on which anything was measured), `links_measured` (of these, for the
        point), `worst_regret` (NaN unless measured on all of them), `worst_link` (the first of equals;
        None where there is no regret), `mean_regret` (over the links, each weighing the same), and
        `minimax`: whether it is the choice.

    Raises:
        FrameError: as `regret`.

    Source: the minimax-regret rule (Savage 1951).
    """
    table = regret(points, objective)
    columns = [*GROUP_KEYS, "partition_point", "partition_label", "links", "links_measured"]
    columns += ["worst_regret", "worst_link", "mean_regret", "minimax"]
    pieces = []
    for _, group in table[table["best"].notna()].groupby(GROUP_KEYS, dropna=False, sort=False):
        links = group["link"].nunique(dropna=False)
        rows = []
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
            rows[-1] |= {"worst_link": where, "mean_regret": mean}
        piece = pd.DataFrame(rows)
        piece["minimax"] = piece["worst_regret"] == piece["worst_regret"].min()
        pieces.append(piece.sort_values("worst_regret", kind="stable")[columns])
    found = pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)
    return found.astype({"minimax": bool})


def regret_table(points: pd.DataFrame, objective: Mapping[str, str]) -> pd.DataFrame:
    """The regrets of every point that was measured on all links of its group, links side by side.

    Args:
        points: one row per configuration and point, see `point_table`.
        objective: one column -> "min" or "max".

    Returns:
        One row per group (`GROUP_KEYS`) and point, the best first within its group: `partition_point`,
        `partition_label`, `regret_on_<link>` for every link (NaN where the group was not measured on
        it), `worst_regret`, `worst_link`, `mean_regret` and `minimax`, as `minimax_regret`.

    Raises:
        FrameError: as `regret`.
    """
    choice = minimax_regret(points, objective)
    choice = choice[choice["worst_regret"].notna()].drop(columns=["links", "links_measured"])
    keys = [*GROUP_KEYS, "partition_point"]
    table = choice[[*keys, "partition_label"]]
    for link, cells in regret(points, objective).groupby("link", dropna=False, sort=False):
        side = cells[[*keys, "regret"]].rename(columns={"regret": f"regret_on_{link}"})
        table = table.merge(side, on=keys, how="left")
    last = ["worst_regret", "worst_link", "mean_regret", "minimax"]
    return table.assign(**{name: choice[name].to_numpy() for name in last})


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
