"""Which cuts `partition_points: auto` and `plan` measure: by predictions, which every round of trials corrects."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pplib.columns import OBJECTIVES
from pplib.config import Configuration
from pplib.errors import ConfigError
from pplib.objectives import of_configuration
from pplib.planner.measured_cuts import measured_cuts
from pplib.planner.next_cuts import front_chances, next_cuts
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.prediction import CutDraws, draw_cuts, predictions_table
from pplib.records import point_label
from pplib.sweep.planning.predicting import cuts_to_look_at
from pplib.sweep.points import chosen_before
from pplib.sweep.results import has_trials, read_predictions, summary_frame, write_predictions

PER_ROUND = 2
"""Cuts that a round adds: a round costs some seconds, a cut that a later round would not have chosen its trials."""
FIRST_ROUND = 3


def choose(config: Configuration, pipeline: Pipeline, may_add: bool = True, keep: bool = True) -> list[tuple[int, ...]]:
    """The cuts that are to be measured by now, those chosen before first.

    `auto` chooses one, once: that with the highest throughput, and of those as good the one with the lowest latency;
    where throughput is no objective, the best in the first one. `plan` adds the most promising ones, see `next_cuts`,
    as long as any may matter.

    Args:
        config: whose trials so far correct the predictions.
        pipeline: of its profiles.
        may_add: whether there is time for more.
        keep: whether the predictions are written, and with them what was chosen.

    Returns:
        At least one.

    Raises:
        OutputError: what is kept cannot be read, or written.
        ConfigError: an objective cannot be predicted, for a device's power is not known.
    """
    chosen = chosen_before(config)
    points = list(dict.fromkeys([*cuts_to_look_at(pipeline, config.seed), *chosen]))
    place = {one: i for i, one in enumerate(points)}
    measured = measured_cuts(summary_frame(config.folder), config.seed) if has_trials(config.folder) else None
    cuts = draw_cuts(pipeline, points, seed=config.seed, measured=measured)
    known, objectives = [place[one] for one in chosen], of_configuration(config).objectives
    if lacking := [name for name in objectives if name not in cuts.values]:
        powerless = ", ".join(stage.name for stage in pipeline.stages if stage.powers_w is None)
        raise ConfigError(
            f"objectives: {', '.join(lacking)} cannot be predicted: the power of {powerless} is not known: give its "
            "idle_w and busy_w in the device file, or choose others"
        )
    if config.partition_points == "auto":
        more = [] if chosen else [_best(config, cuts)]
    elif may_add or not chosen:
        more = next_cuts(cuts, objectives, known, config.indifference, PER_ROUND if chosen else FIRST_ROUND)
    else:
        more = []
    if keep:
        _keep(config, pipeline, points, cuts, known, more)
    return [*chosen, *(points[i] for i in more)]


def _best(config: Configuration, cuts: CutDraws) -> int:
    names = list(of_configuration(config).objectives)
    values = {name: cuts.values[name][:, 0] for name in OBJECTIVES}
    if "throughput_img_s" not in names:
        return int((cuts.values[names[0]][:, 0]).argmin())
    good = values["throughput_img_s"] >= values["throughput_img_s"].max() * (1 - config.indifference)
    return int(np.where(good, values["latency_s"], np.inf).argmin())


def _keep(
    config: Configuration,
    pipeline: Pipeline,
    points: list[tuple[int, ...]],
    cuts: CutDraws,
    chosen: list[int],
    more: list[int],
) -> None:
    """Write what is predicted now of all cuts, but of those chosen before what was predicted then."""
    table = predictions_table(pipeline, points, cuts)
    objectives = of_configuration(config).objectives
    table["front_chance"] = front_chances(cuts, objectives, chosen, config.indifference) if chosen else np.nan
    table["plan_round"] = np.nan
    before = read_predictions(config.folder)
    if before is not None:
        before = before.set_index("partition_label").reindex(table["partition_label"]).reset_index()
        before = before.reindex(columns=table.columns)
        kept = before["plan_round"].notna().to_numpy()
        table = pd.DataFrame({name: np.where(kept, before[name], table[name]) for name in table.columns})
    if more:
        labels = {point_label(points[i]) for i in more}
        rounds = table["plan_round"].astype("float64")
        latest = 0.0 if rounds.isna().all() else float(rounds.max())
        table["plan_round"] = rounds.mask(table["partition_label"].isin(labels), latest + 1)
    write_predictions(config.folder, table)
