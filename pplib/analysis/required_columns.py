"""What an analysis asks of a frame's columns, said before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pplib.errors import FrameError, nearest


def require_columns(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Make sure that `frame` has `columns`.

    Args:
        frame: any table.
        columns: the names needed.
        what: what the table is, for the message ("the profile").

    Raises:
        FrameError: the missing columns, and the nearest ones that are there.

    >>> require_columns(pd.DataFrame({"latency_s": [1.0]}), ["latency_ms"], "the summary")
    Traceback (most recent call last):
    pplib.errors.FrameError: the summary has no column 'latency_ms'; nearest: latency_s
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        have = [str(name) for name in frame.columns]
        hints = "; ".join(f"{name!r}; {nearest(name, have)}" for name in missing[:3])
        more = f" (and {len(missing) - 3} more)" if len(missing) > 3 else ""
        raise FrameError(f"{what} has no column {hints}{more}" if have else f"{what} has no columns at all")


def numeric_column(frame: pd.DataFrame, name: str, what: str) -> pd.Series[float]:
    """Column `name` of `frame` as float64, missing values as NaN.

    Raises:
        FrameError: there is no such column, or it does not hold numbers.
    """
    require_columns(frame, [name], what)
    column = frame[name]
    empty = bool(column.isna().all())
    if not (pd.api.types.is_numeric_dtype(column.dtype) or empty) or pd.api.types.is_bool_dtype(column.dtype):
        example = column.dropna().iloc[0] if not empty else None
        raise FrameError(f"{what}: column {name!r}: expected numbers, got {column.dtype} such as {example!r}")
    return column.astype("float64")
