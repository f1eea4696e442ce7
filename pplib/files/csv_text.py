"""CSV that a spreadsheet shows as text: a cell that begins as a formula does gets an apostrophe before it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Hashable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV; numbers stay numbers, and `read_csv` reads the text as it was."""
    guarded = _each_text(frame, _guarded)
    text = guarded.to_csv(index=False)
    # pandas does not quote a carriage return, and reads one as the end of a line.
    return guarded.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC) if "\r" in text else text


def read_csv(path: Path | StringIO, **options: Any) -> pd.DataFrame:
    """Read what `to_csv` wrote, with the options of pandas."""
    return _each_text(pd.read_csv(path, **options), _plain)


def _each_text(frame: pd.DataFrame, change: Callable[[Hashable], Hashable]) -> pd.DataFrame:
    """`frame` with its heads and all cells of columns that are not numbers changed."""
    texts = [str(name) for name, kind in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    changed = {name: frame[name].map(change).astype(frame[name].dtype) for name in texts}
    return frame.assign(**changed).rename(columns=change)


def _guarded(cell: Hashable) -> Hashable:
    """An apostrophe before what begins as a formula, whatever apostrophes it begins with."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'").startswith(_FORMULA) else cell


def _plain(cell: Hashable) -> Hashable:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA) else cell
