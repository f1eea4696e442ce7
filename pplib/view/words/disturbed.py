"""What is said of trials during which a device throttled, swapped, was suspended or lost time to other guests."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.statistics import is_disturbed, outdone_by_calm

_EXAMPLES = 3


def disturbed_words(summary: pd.DataFrame) -> str:
    """How many trials were disturbed, by what, and what became of them; empty where none was.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
    """
    disturbed = is_disturbed(summary)
    if not disturbed.any():
        return ""
    told = list(dict.fromkeys(summary.loc[disturbed, "disturbed"].astype("str")))
    more = f"; and {len(told) - _EXAMPLES} more" if len(told) > _EXAMPLES else ""
    left_out = outdone_by_calm(summary)
    words = (
        f"{disturbed.sum()} of {len(summary)} trials were disturbed ({'; '.join(told[:_EXAMPLES])}{more}); "
        f"{left_out.sum()} of them are left out, for their points have others."
    )
    counted = summary[disturbed & ~left_out]
    labels = ", ".join(dict.fromkeys(counted["partition_label"].astype("str")))
    return f"{words} All trials of these points were disturbed, and count: {labels}." if labels else words
