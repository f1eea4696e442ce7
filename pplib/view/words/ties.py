"""Cuts that are as good as one on the front, in words: those that are equal to it, and those not told from it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pplib.view.words.differences import percent


def tie_lines(tied: pd.DataFrame, indifference: float) -> list[str]:
    """What is said of the ties of one configuration.

    Args:
        tied: see `ties`; the points of one configuration, in the model's order.
        indifference: what was given to `ties`.

    >>> points = pd.DataFrame({
    ...     "partition_label": ["P4", "P5", "P6", "P7", "P9"],
    ...     "on_front": [False, True, False, False, False],
    ...     "equal_to": ["", "P5", "P5", "P5", ""],
    ...     "tied_with": ["P5", "", "P5", "P5", ""],
    ... })
    >>> tie_lines(points, 0.02)
    ['equal within 2 %: P5 to P7', 'not told from P5: P4']
    """
    labels = tied["partition_label"].astype(str).tolist()
    groups: dict[str, list[str]] = {}
    unlike: dict[str, list[str]] = {}
    for label, front, equal, others in zip(labels, tied["on_front"], tied["equal_to"], tied["tied_with"], strict=True):
        if equal:
            groups.setdefault(str(equal), []).append(label)
        elif others and not front:
            unlike.setdefault(str(others), []).append(label)
    told = "; ".join(_together(group, labels) for group in groups.values() if len(group) > 1)
    lines = [f"equal within {percent(indifference)}: {told}"] if told else []
    if unlike:
        lines.append(
            "not told from " + "; from ".join(f"{one}: {_together(found, labels)}" for one, found in unlike.items())
        )
    return lines


def _together(group: Sequence[str], labels: Sequence[str]) -> str:
    """A group, those that follow each other among all labels as "P5 to P7"."""
    runs: list[list[str]] = []
    for label in group:
        if runs and labels.index(label) == labels.index(runs[-1][-1]) + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)
