"""Which trials there are, and in which order: interleaved, so that drift of a machine is common to what is compared."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pplib.config import Configuration
from pplib.sweep.results import is_done


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
    """What a run that is started again still has to do."""
    return [
        trial
        for trial in schedule(points, config.repeats, config.seed, config.identity)
        if not is_done(config, trial.points, trial.repeat)
    ]


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
