"""`partition_points: auto`: chosen once, from what the units take, and kept with the results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pplib.config import Configuration
from pplib.decode import plain
from pplib.devices import Testbed
from pplib.errors import OutputError, PartitionError
from pplib.model.points import combinations, validate_points
from pplib.planner.points import balanced_points, even_points
from pplib.records import write_atomic

NAME = "partition_points.json"


class AutoChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The partition points that were chosen, and what from.

    `unit_times_s`: of each unit, one microbatch on one core of the machine that planned, executed as a
    stage executes it. `speeds`: of each device against that machine. They are measured: the devices run
    the units between `timed_at` once, which takes each of them `compute_s` per microbatch (both empty
    before that: the speeds are then what `slowdown` says). `speeds_of`: those devices. `transfer_s`: how
    long the output of each unit keeps the link busy at the rate of the link profile; 0 where that has
    none. A link's delay is the same at every cut and decides nothing.
    """

    unit_times_of: dict[str, str | int | bool | None]
    unit_times_s: list[float]
    speeds: list[float]
    transfer_s: list[float]
    points: list[int]
    timed_at: list[int] = []
    compute_s: list[float] = []
    speeds_of: list[dict[str, Any]] = []


def choose(
    config: Configuration, testbed: Testbed, activation_bytes: Sequence[int], unit_times_s: Callable[[], list[float]]
) -> AutoChoice:
    """The stored choice of a configuration; where there is none, one that is made now, and not stored yet.

    Configurations of one grid whose units cost the same share one measurement, and so do those with the
    same devices, so that the same devices and link get the same points. Devices that nobody has timed yet
    count as equally fast but for their `slowdown`, see `with_speeds`.

    Args:
        config: with its `num_stages` and `link`.
        testbed: its devices.
        activation_bytes: of the output of each unit, one microbatch.
        unit_times_s: measures the units.
    """
    stored = stored_choice(config)
    if stored is not None:
        return stored
    of = {key: getattr(config, key) for key in ("model", "num_classes", "batch_size", "granularity", "optimize")}
    devices = [plain(device) for device in testbed.first(config.num_stages)]
    alike = [one for path in sorted(config.results.glob(f"*/{NAME}")) if (one := read_choice(path)).unit_times_of == of]
    timed = next((one for one in alike if one.compute_s and one.speeds_of == devices), None)
    shared = timed or next(iter(alike), None)
    times = shared.unit_times_s if shared else unit_times_s()
    rate = config.link_profile.forward.rate_bit_s
    transfer = [size * 8 / rate if rate else 0.0 for size in activation_bytes]
    speeds = timed.speeds if timed else [1 / device.slowdown for device in testbed.first(config.num_stages)]
    return AutoChoice(
        unit_times_of=of,
        unit_times_s=times,
        speeds=speeds,
        transfer_s=transfer,
        points=list(balanced_points(times, config.num_stages, speeds, transfer)),
        timed_at=timed.timed_at if timed else [],
        compute_s=timed.compute_s if timed else [],
        speeds_of=devices,
    )


def with_speeds(choice: AutoChoice, compute_s: Sequence[float]) -> AutoChoice:
    """The choice that the devices' measured speeds ask for.

    Args:
        choice: made before they were timed.
        compute_s: what each device takes for its stage at the points of `choice`, per microbatch.

    >>> before = AutoChoice(unit_times_of={}, unit_times_s=[1, 1, 1, 1], speeds=[1, 1], transfer_s=[0] * 4, points=[2])
    >>> after = with_speeds(before, [6.0, 2.0])  # the first device is three times as slow as the second
    >>> after.points, after.timed_at
    ([1], [2])
    """
    ends = [0, *choice.points, len(choice.unit_times_s)]
    planned_s = [sum(choice.unit_times_s[first:last]) for first, last in itertools.pairwise(ends)]
    speeds = [planned / found for planned, found in zip(planned_s, compute_s, strict=True)]
    points = balanced_points(choice.unit_times_s, len(speeds), speeds, choice.transfer_s)
    return msgspec.structs.replace(
        choice, speeds=speeds, points=list(points), timed_at=choice.points, compute_s=list(compute_s)
    )


def stored_choice(config: Configuration) -> AutoChoice | None:
    """What was chosen when this configuration was begun, if it was.

    Raises:
        OutputError: the file cannot be read.
    """
    path = config.folder / NAME
    return read_choice(path) if path.exists() else None


def store_choice(config: Configuration, choice: AutoChoice) -> None:
    """Keep a choice with the results of its configuration.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_atomic(config.folder / NAME, msgspec.json.format(msgspec.json.encode(choice), indent=1))


def read_choice(path: Path) -> AutoChoice:
    """Read a stored choice.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=AutoChoice)
    except (OSError, msgspec.DecodeError) as exc:
        raise OutputError(f"{path}: not a choice of partition points: {exc}: move it away to choose again") from exc


def choose_points(config: Configuration, count: int, auto: AutoChoice | None = None) -> list[tuple[int, ...]]:
    """The partitions that `partition_points` asks for, of a model of `count` units.

    "all": every valid one; "even": units shared out equally; "auto": the one that was chosen, none before;
    a list: those.

    Raises:
        PartitionError: a point outside the range; the valid ones are listed.
    """
    stages, asked = config.num_stages, config.partition_points
    if asked == "all":
        return combinations(count, stages)
    if asked == "even":
        return [even_points(count, stages)]
    if asked == "auto":
        return [tuple(auto.points)] if auto else []
    chosen = []
    for i, one in enumerate(asked):
        points = (one,) if isinstance(one, int) else tuple(one)
        try:
            if len(points) != stages - 1:
                raise PartitionError(f"{stages} stages need {stages - 1} partition points, got {len(points)}")
            validate_points(points, count)
        except PartitionError as exc:
            raise PartitionError(f"partition_points[{i}]: {config.model}: {exc}") from exc
        chosen.append(points)
    return list(dict.fromkeys(chosen))
