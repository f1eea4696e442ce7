"""Which trials there are, and in which order: interleaved, so that drift of a machine is common to what is compared."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pplib.analysis.estimated.uncertainty import CERTAINTY, front_probability
from pplib.analysis.statistics import CONFIGURATION_KEYS, partition_key
from pplib.config import Configuration
from pplib.objectives import of_configuration
from pplib.records import read_record, trial_path, write_atomic
from pplib.sweep.results import is_done, summary_frame

DECIDED = "decided.json"  # with `repeats: auto` or a plan: nothing is left to be decided within these limits


@dataclass(frozen=True)
class Trial:
    """One trial to run: which partition, which repeat, and at which place in its configuration's order."""

    points: tuple[int, ...]
    repeat: int
    order: int


def schedule(points: Sequence[tuple[int, ...]], repeats: int, seed: int, name: str) -> list[Trial]:
    """Every point once per repeat, each repeat in a random order of its own.

    Args:
        points: the partitions.
        repeats: how often each.
        seed: of the orders.
        name: of the configuration: another one has other orders.
    """
    trials: list[Trial] = []
    for repeat in range(repeats):
        block = list(points)
        random.Random(f"{seed}-{name}-{repeat}").shuffle(block)
        trials += [Trial(point, repeat, len(trials) + i) for i, point in enumerate(block)]
    return trials


def missing_trials(config: Configuration, points: Sequence[tuple[int, ...]]) -> list[Trial]:
    """What a run that is started again still has to do of what was asked for, or begun; then what was disturbed."""
    asked = schedule(points, config.first_repeats, config.seed, config.identity)
    known = {(trial.points, trial.repeat) for trial in asked}
    for point in points if config.repeats == "auto" else ():
        more = [(point, repeat) for repeat in range(begun(config, point)) if (point, repeat) not in known]
        asked += [Trial(*one, len(asked) + i) for i, one in enumerate(more)]
    missing = [trial for trial in asked if not is_done(config, trial.points, trial.repeat)]
    return missing or once_more(config, points)


def planned_round(config: Configuration, points: Sequence[tuple[int, ...]], grows: bool) -> list[Trial]:
    """What is to be measured before a plan looks again.

    While it grows, one more trial of every cut that lacks one: so those chosen late are measured beside those before
    them. Once it does not, all that are lacking.

    Args:
        config: whose.
        points: the cuts it has chosen.
        grows: whether some of them are new.
    """
    had = {point: begun(config, point) for point in points}
    lacking = [
        (point, repeat)
        for point in points
        for repeat in range(had[point], min(had[point] + 1, config.first_repeats) if grows else config.first_repeats)
    ]
    random.Random(f"{config.seed}-{config.identity}-{sorted(had.items())}").shuffle(lacking)
    done = sum(had.values())
    return [Trial(*one, done + i) for i, one in enumerate(lacking)]


def failed_before(config: Configuration, points: Sequence[tuple[int, ...]]) -> list[Trial]:
    """Trials of earlier runs that failed, or over a link that was not found right afterwards."""
    return [one for one in missing_trials(config, points) if one.repeat < begun(config, one.points)]


def once_more(config: Configuration, points: Sequence[tuple[int, ...]]) -> list[Trial]:
    """One more trial of every point that lacks trials during which no device was disturbed.

    No point gets more of these than it was to have trials, and there are no more once most of them were disturbed too:
    then that is how the device is.
    """
    asked = config.first_repeats
    records = {
        point: [read_record(trial_path(config.folder, point, repeat)) for repeat in range(begun(config, point))]
        for point in points
    }
    disturbed = {
        point: [bool(one.metrics.get("disturbed")) for one in found if one.status == "ok"]
        for point, found in records.items()
    }
    if not any(map(any, disturbed.values())):
        return []
    extra = [bool(one.metrics.get("disturbed")) for found in records.values() for one in found[asked:]]
    if config.repeats != "auto" and 2 * sum(extra) > len(extra):
        return []
    lacking = [point for point in points if any(disturbed[point]) and disturbed[point].count(False) < asked]
    most = min(2 * asked, config.max_repeats) if config.repeats == "auto" else 2 * asked
    more = [point for point in lacking if len(records[point]) < most]
    random.Random(f"{config.seed}-{config.identity}-{len(extra)}").shuffle(more)
    done = sum(map(len, records.values()))
    return [Trial(point, len(records[point]), done + i) for i, point in enumerate(more)]


def begun(config: Configuration, point: tuple[int, ...]) -> int:
    """How many repeats of a point there are, ok or not."""
    return next(n for n in itertools.count() if not trial_path(config.folder, point, n).exists())


def next_round(
    group: Sequence[tuple[Configuration, Sequence[tuple[int, ...]]]], minutes: float
) -> dict[str, list[Trial]]:
    """One more trial of every point of which it is not decided whether it is on its front.

    Decided is what is as good as the front in 95 % of what other sweeps might find, or in at most 5 %. What may not be
    repeated more often, or for longer, stays as it is.

    Args:
        group: configurations of one grid that were measured together, and their partitions.
        minutes: since they were begun.

    Returns:
        Trials by the name of their configuration.
    """
    open_ones = [(config, points) for config, points in group if _may_go_on(config, minutes)]
    if not open_ones:
        return {}
    frames = [summary_frame(config.folder).assign(setup="", identity=config.identity) for config, _ in group]
    frame = pd.concat(frames, ignore_index=True)
    names = frame.drop_duplicates(CONFIGURATION_KEYS).set_index(CONFIGURATION_KEYS)["identity"]
    first = group[0][0]
    wanted, _ = of_configuration(first).known(frame)
    sure = front_probability(frame, wanted.objectives, indifference=first.indifference)
    sure = sure[(sure["front_probability"] >= 1 - CERTAINTY) & (sure["front_probability"] < CERTAINTY)]
    undecided = {
        (str(names[tuple(row[key] for key in CONFIGURATION_KEYS)]), partition_key(row["partition_point"]))
        for row in sure.to_dict("records")
    }
    found: dict[str, list[Trial]] = {}
    for config, points in open_ones:
        again = [point for point in points if (config.identity, point) in undecided]
        random.Random(f"{config.seed}-{config.identity}-{minutes}").shuffle(again)
        repeats = [(point, begun(config, point)) for point in again]
        done = len(points) * config.first_repeats
        found[config.identity] = [
            Trial(point, repeat, done + i) for i, (point, repeat) in enumerate(repeats) if repeat < config.max_repeats
        ]
    return found


def _may_go_on(config: Configuration, minutes: float) -> bool:
    return config.repeats == "auto" and not is_late(config, minutes) and not is_decided(config)


def is_late(config: Configuration, minutes: float) -> bool:
    """Whether a configuration has had its `max_minutes`."""
    return config.max_minutes is not None and minutes >= config.max_minutes


def _is_open(config: Configuration) -> bool:
    """Whether how many trials it gets depends on what they say."""
    return config.repeats == "auto" or config.partition_points == "plan"


def note_decided(config: Configuration) -> None:
    """Keep that no point of a configuration wants, or may have, another repeat, and no other cut a trial."""
    if _is_open(config):
        write_atomic(config.folder / DECIDED, _limits(config).encode())


def is_decided(config: Configuration) -> bool:
    """Whether nothing is left to be decided, within the limits of this configuration."""
    path = config.folder / DECIDED
    return not _is_open(config) or (path.is_file() and path.read_text() == _limits(config))


def _limits(config: Configuration) -> str:
    limits: dict[str, object] = {
        "max_repeats": config.max_repeats,
        "max_minutes": config.max_minutes,
        "indifference": config.indifference,
    }
    if config.objectives != Configuration().objectives:
        limits["objectives"] = config.objectives
    return json.dumps(limits) + "\n"


def interleaved(todo: Mapping[str, Sequence[Trial]], links: Mapping[str, str], seed: int) -> list[tuple[str, Trial]]:
    """The trials of several configurations in blocks: in each, every configuration and point once.

    Within a block one link follows the other, in random order: to shape and measure it takes its time. On a link the
    configurations take turns, in a random order each time; to join the devices over another backend takes a tenth of
    a second.

    Args:
        todo: the trials of each configuration, in its own order.
        links: the link of each.
        seed: of the orders.

    Returns:
        Each trial with the name of its configuration.
    """
    found: list[tuple[str, Trial]] = []
    for repeat in sorted({trial.repeat for trials in todo.values() for trial in trials}):
        draw = random.Random(f"{seed}-{repeat}")
        order = sorted(set(links.values()))
        draw.shuffle(order)
        for link in order:
            left = {name: [one for one in todo[name] if one.repeat == repeat] for name in todo if links[name] == link}
            while left := {name: trials for name, trials in left.items() if trials}:
                names = list(left)
                draw.shuffle(names)
                found += [(name, left[name].pop(0)) for name in names]
    return found
