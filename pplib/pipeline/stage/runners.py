"""What runs a built stage on a microbatch. Nothing of PyTorch is imported here: `eager` has what needs it."""

from __future__ import annotations

import time
from collections.abc import Callable

from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array, Stage

Runner = Callable[[Array], tuple[Array, int]]
"""Maps an array to an array, both in the host's memory, and the ns spent on copies to and from the device.

What it returns may lie in memory that it, or whoever gave the input, uses again: it is good until
`in_flight` more microbatches have been run, and as long as its input is left alone.
"""


class ExportedRunner:
    """Runs a stage that another runtime has opened; None is the empty stage."""

    def __init__(self, stage: Stage | None, out: TensorSpec) -> None:
        self._stage, self._out = stage, out

    def __call__(self, array: Array) -> tuple[Array, int]:
        """See Runner."""
        return self._out.laid_out(array if self._stage is None else self._stage(array)), 0


class PausingRunner:
    """Gives back its input as a stage gives its output, written anew after a while, and computes nothing."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def __call__(self, array: Array) -> tuple[Array, int]:
        """See Runner."""
        time.sleep(self._pause_s)
        return array.copy(order="K"), 0


def run_slowed(runner: Runner, array: Array, slowdown: float) -> tuple[Array, int, int, int]:
    """Run a stage once; what is left of `slowdown` times as long is slept.

    Returns:
        The output, the ns of copies, and when it began and ended, in ns of CLOCK_MONOTONIC.
    """
    start = time.monotonic_ns()
    output, copied = runner(array)
    if slowdown > 1:
        time.sleep((slowdown - 1) * (time.monotonic_ns() - start) * 1e-9)
    return output, copied, start, time.monotonic_ns()
