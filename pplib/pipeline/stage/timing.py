"""What a stage takes where nothing else is done: run again and again, on an input that is made up."""

from __future__ import annotations

import threading

import numpy as np

from pplib.pipeline.stage.runners import Runner, run_slowed
from pplib.pipeline.wire.messages import Moments
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

_BLOCK = 10_007  # different values, again and again: to draw all of a large input would take longer than to time it
INPUTS = 2  # arrays that a timing holds: what is given, and where a microbatch would be received


class StageTiming:
    """Runs one stage alone, as a trial does where its other stages take their time in between: after a pause.

    Without it what the stage uses stays in the nearest caches, its core stays awake, and short stages take a fifth less
    than in a trial (MobileNetV2 on one x86 core). The input is written anew before every run, as a receiver writes it.

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
        self._stopped, self._cause = threading.Event(), Exception()
        self.trace = Moments()

    def run(self, warmup: int, count: int, pause_s: float) -> None:
        """Run it `warmup` times at once, and `count` times after `pause_s` each.

        Raises:
            Exception: what `stop` was given.
        """
        seen = self.trace
        for done in range(warmup + count):
            if self._stopped.wait(0.0 if done < warmup else pause_s):
                raise self._cause
            np.copyto(self._slot, self._given)
            _, copied, start, end = run_slowed(self._runner, self._slot, self._slowdown)
            seen.compute_start_ns.append(start)
            seen.compute_end_ns.append(end)
            seen.copy_ns.append(copied)

    def stop(self, cause: Exception) -> None:
        """End it before its next run, from another thread."""
        self._cause = cause
        self._stopped.set()


def made_up(spec: TensorSpec) -> Array:
    """An input of a stage: floats from 0.5 to 2, so that none is denormal; integers and truth values are 0 or 1."""
    draw = np.random.default_rng(0)
    if spec.dtype == "bfloat16":  # 1 and a random fraction
        block = draw.integers(0x3F80, 0x3FFF, _BLOCK, dtype=np.uint16)
    elif spec.array_dtype.kind == "f":
        block = draw.uniform(0.5, 1.5, _BLOCK).astype(spec.array_dtype)
    else:
        block = draw.integers(0, 2, _BLOCK).astype(spec.array_dtype)
    return spec.laid_out(np.resize(block, spec.shape))
