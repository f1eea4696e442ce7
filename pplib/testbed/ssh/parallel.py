"""The same for several devices at once: one that hangs holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from pplib.errors import ParetoPipeError, WorkerError

T = TypeVar("T")
R = TypeVar("R")


def for_each(items: Sequence[T], work: Callable[[T], R], limit_s: float) -> list[R | ParetoPipeError]:
    """Call `work` with each item, all at the same time.

    Args:
        items: one for each call; an item with a `name` is called by it in errors.
        work: returns a result or raises; only errors of this package become results.
        limit_s: how long to wait for all of them together. What takes longer goes on in the background,
            unheard, and ends with the process at the latest.

    Returns:
        A result or an error for each item, in order.
    """
    results: dict[int, R | BaseException] = {}

    def call(index: int) -> None:
        try:
            results[index] = work(items[index])
        except BaseException as exc:  # noqa: BLE001 (raised again below, in the thread that asked)
            results[index] = exc

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(len(items))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    found: list[R | ParetoPipeError] = []
    for i, item in enumerate(items):
        late = WorkerError(f"{getattr(item, 'name', item)}: not done within {limit_s:.0f} s")
        result = results.get(i, late)
        if isinstance(result, BaseException) and not isinstance(result, ParetoPipeError):
            raise result
        found.append(result)
    return found


def all_or_error(results: Sequence[R | ParetoPipeError]) -> list[R]:
    """The results of `for_each`, if there is one for every item.

    Raises:
        ParetoPipeError: the first error among them.
    """
    good: list[R] = []
    for result in results:
        if isinstance(result, ParetoPipeError):
            raise result
        good.append(result)
    return good
