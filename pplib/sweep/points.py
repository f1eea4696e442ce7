"""Which partitions `partition_points` asks for."""

from __future__ import annotations

from pplib.config import Configuration
from pplib.errors import PartitionError
from pplib.model.points import combinations, even_points, validate_points
from pplib.records import read_record
from pplib.sweep.results import read_predictions, trial_files


def choose_points(config: Configuration, count: int) -> list[tuple[int, ...]]:
    """The partitions that `partition_points` asks for, of a model of `count` units.

    "all": every valid one; "even": units shared out equally; "auto" and "plan": those that were chosen before, none at
    first; a list: those.

    Raises:
        PartitionError: a point outside the range; the valid ones are listed.
        OutputError: what was chosen before cannot be read.
    """
    stages, asked = config.num_stages, config.partition_points
    if asked == "all":
        return combinations(count, stages)
    if asked == "even":
        return [even_points(count, stages)]
    if not isinstance(asked, list):
        return chosen_before(config)
    chosen = list[tuple[int, ...]]()
    for i, one in enumerate(asked):
        points: tuple[int, ...] = (one,) if isinstance(one, int) else tuple(one)
        try:
            if len(points) != stages - 1:
                raise PartitionError(f"{stages} stages need {stages - 1} partition points, got {len(points)}")
            validate_points(points, count)
        except PartitionError as exc:
            raise PartitionError(f"partition_points[{i}]: {config.model}: {exc}") from exc
        chosen.append(points)
    return list(dict.fromkeys(chosen))


def chosen_before(config: Configuration) -> list[tuple[int, ...]]:
    """What a plan chose for this configuration so far: as its predictions say, else those that were measured."""
    known = read_predictions(config.folder)
    if known is not None:
        chosen = known[known["plan_round"].notna()].sort_values("plan_round", kind="stable")
        return [points_of(str(label)) for label in chosen["partition_label"]]
    measured = [tuple(read_record(path).partition_points) for path in trial_files(config.folder)]
    return list(dict.fromkeys(measured))


def points_of(label: str) -> tuple[int, ...]:
    """The points that `point_label` names.

    >>> points_of("P3-7")
    (3, 7)
    """
    return tuple(int(point) for point in label.removeprefix("P").split("-"))
