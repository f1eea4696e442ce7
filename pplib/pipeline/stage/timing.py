"""What a stage takes where nothing else is done: run again and again on an input that is made up."""

from __future__ import annotations

import time

import numpy as np

from pplib.pipeline.stage.runners import Runner, run_slowed
from pplib.pipeline.wire.messages import Moments
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

INPUTS = 2  # arrays that a timing holds: what is given, and where a microbatch would be received


class StageTiming:
    """Runs one stage alone.

    Before every run its input is written anew, as a receiver writes it, and is as near in the caches.

    Args:
        runner: the stage.
        spec: of its input.
        slowdown: compute takes this factor longer, as in a trial.

    Attributes:
        trace: when each run began and ended, and its copies.
    """

    def __init__(self, runner: Runner, spec: TensorSpec, slowdown: float = 1.0) -> None:
        self._runner, self._slowdown = runner, slowdown
        self._given, self._slot = made_up(spec), spec.allocate()
        self._cause: Exception | None = None
        self.trace = Moments()

    def run(self, least: int, limit_s: float) -> None:
        """Run it `least` times, and on until `limit_s` have passed.

        Raises:
            Exception: what `stop` was given.
        """
        seen, end_s = self.trace, time.monotonic() + limit_s
        while len(seen.copy_ns) < least or time.monotonic() < end_s:
            if self._cause is not None:
                raise self._cause
            np.copyto(self._slot, self._given)
            _, copied, start, end = run_slowed(self._runner, self._slot, self._slowdown)
            seen.compute_start_ns.append(start)
            seen.compute_end_ns.append(end)
            seen.copy_ns.append(copied)

    def stop(self, cause: Exception) -> None:
        """End it after the present run, from another thread."""
        self._cause = cause


def made_up(spec: TensorSpec) -> Array:
    """An input of a stage: floats from 0.5 to 1.5, so that none is denormal, and of integers and truth values 0 or 1."""
    draw, shape = np.random.default_rng(0), spec.shape
    if spec.dtype == "bfloat16":  # 1 and a random fraction
        values = draw.integers(0x3F80, 0x3FFF, shape, dtype=np.uint16)
    elif spec.array_dtype.kind == "f":
        values = (draw.random(shape, dtype=np.float32) + np.float32(0.5)).astype(spec.array_dtype)
    else:
        values = draw.integers(0, 2, shape).astype(spec.array_dtype)
    return spec.laid_out(values)
