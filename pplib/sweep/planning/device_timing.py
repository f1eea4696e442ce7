"""Have devices time the units of a model, and some longer stages, in turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pplib import limits
from pplib.config import Configuration
from pplib.devices import Device
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.monitor.disturbance import disturbance
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.plan import PipelinePlan, tensor_spec
from pplib.planner.profiles.device_profile import TimedStage, powers_w
from pplib.runtimes import runtime
from pplib.sweep.experiment import Experiment

PAUSE_S = 0.1  # before a run at most, as while other stages compute: a longer one changes nothing
WARMUP, RUNS = 1, 2  # of one visit to a stage
ROUNDS, LEAST_ROUNDS = 10, 3
SECONDS = 60.0  # of each device: no more rounds are begun then, of devices that are slow
LEAST_HAD = 0.9  # of the time that stages take, with a core to themselves
CUTS = 5  # where anchors begin and end

Border = tuple[int, int]


@dataclass
class _Seen:
    """What one stage was seen to take, on one device."""

    rounds_s: list[float] = field(default_factory=list)
    copies_s: list[float] = field(default_factory=list)
    param_bytes: int = 0
    resident_bytes: list[int] = field(default_factory=list)


class DeviceTiming:
    """Times the stages of one model on one device.

    Args:
        experiment: the model.
        config: whose precision and `optimize`.
        worker: the device's.
        device: as the user's file has it.
        name: of the runtime.

    Attributes:
        room_bytes: what the device's memory leaves for weights, once it has begun; None where that is not known.
    """

    def __init__(
        self, experiment: Experiment, config: Configuration, worker: WorkerClient, device: Device, name: str
    ) -> None:
        self.worker, self._device, self._runtime = worker, device, name
        self._experiment, self._config = experiment, config
        self._plans = dict[Border, PipelinePlan]()
        self._seen = dict[Border, _Seen]()
        self._visits = list[m.Trace]()
        self._sent = set[str]()
        self._unit_s = list[float]()
        self.room_bytes: int | None = None
        self._draw = random.Random(f"{config.seed}-{worker.name}")

    @property
    def notes(self) -> list[str]:
        """What disturbed the device, each thing once."""
        found = sorted({words for one in self._visits if (words := disturbance(one.usage))})
        ran_s = sum((one.usage.process_cpu_fraction or 0.0) * (one.usage.duration_s or 0.0) for one in self._visits)
        had = ran_s * self._device.slowdown / max(1e-9, sum(_busy_s(one) for one in self._visits))
        if self._device.torch_device == "cpu" and 0 < had < LEAST_HAD:
            found.append(f"its stages had a core for {had:.0%} of their time only: other programs ran")
        return found

    @property
    def powers_w(self) -> tuple[float, float] | None:
        """See `pplib.planner.profiles.device_profile.powers_w`."""
        return powers_w([(one.usage.energy_j, one.usage.duration_s or 0.0, _busy_s(one)) for one in self._visits])

    def begin(self) -> None:
        """Look at every unit once, and choose the stages to time."""
        last = len(self._experiment.partitioned.points) - 1
        units, held, taken = [(i, i + 1) for i in range(last)], list[int](), list[int]()
        for one in units:
            self._unit_s.append(statistics.fmean(_taken_s(self._visit(one, 1, 1, PAUSE_S))))
            held.append(self._built.param_bytes)
            taken.append(self._built.resident_bytes - self._built.param_bytes)
        self._visits.clear()
        if self._device.torch_device == "cpu":
            self.room_bytes = max(0, int(self.worker.description.host["memory_bytes"]) - min(taken))
        cuts = even_cuts(self._unit_s, CUTS)
        anchors = fitting(
            [(0, last), *((0, cut) for cut in cuts), *((cut, last) for cut in cuts)], held, self.room_bytes
        )
        self._seen = {one: _Seen() for one in dict.fromkeys([*units, (0, 0), (last, last), *anchors])}

    def round(self) -> None:
        """Time every stage, in an order drawn anew."""
        for one in self._draw.sample(list(self._seen), len(self._seen)):
            others_s = max(0.0, sum(self._unit_s) - sum(self._unit_s[slice(*one)]))
            trace, seen = self._visit(one, WARMUP, RUNS, min(PAUSE_S, others_s)), self._seen[one]
            seen.rounds_s.append(statistics.fmean(_taken_s(trace)[WARMUP:]))
            seen.copies_s.append(statistics.median(trace.moments.copy_ns[WARMUP:]) * 1e-9)
            seen.param_bytes = self._built.param_bytes
            if trace.usage.resident_peak_bytes is not None:
                seen.resident_bytes.append(trace.usage.resident_peak_bytes)

    def stages(self) -> list[TimedStage]:
        """What was found."""
        return [
            TimedStage(
                first=first,
                last=last,
                rounds_s=seen.rounds_s,
                copy_s=statistics.median(seen.copies_s),
                param_bytes=seen.param_bytes,
                resident_bytes=max(seen.resident_bytes, default=None),
            )
            for (first, last), seen in self._seen.items()
        ]

    def _visit(self, border: Border, warmup: int, count: int, pause_s: float) -> m.Trace:
        if border not in self._plans:
            self._plans[border] = stage_plan(self._experiment, self._config, border, self._runtime)
            for sha256 in self._experiment.maker.files.keys() - self._sent:
                send_weights(self.worker, self._experiment.maker.files[sha256])
                self._sent.add(sha256)
        prepare = m.Prepare(plan=self._plans[border], stage_index=0)
        self._built = self.worker.expect(prepare, m.Prepared, limits.BUILD_STAGE_S)
        request = m.TimeStage(warmup=warmup, count=count, pause_s=pause_s)
        trace = self.worker.expect(request, m.Trace, limits.TIME_STAGE_S)
        self._visits.append(trace)
        return trace


def time_in_turns(timings: Sequence[DeviceTiming]) -> float:
    """Time the devices of one machine, a round of each after the other; how long that took, in s, for each of them.

    Raises:
        WorkerError: a device cannot run a stage, or is lost.
    """
    began = time.monotonic()
    for one in timings:
        one.begin()
    for count in range(ROUNDS):
        spent_s = (time.monotonic() - began) / len(timings)
        if count >= LEAST_ROUNDS and spent_s * (count + 1) / count > SECONDS:
            break
        for one in timings:
            one.round()
    return (time.monotonic() - began) / len(timings)


def even_cuts(unit_times_s: Sequence[float], count: int) -> list[int]:
    """At most so many cuts of a model, spread evenly over the time that its units take.

    >>> even_cuts([1, 1, 1, 1, 4], 3)
    [2, 4]
    """
    ends = np.cumsum(unit_times_s)
    wanted = ends[-1] * np.arange(1, count + 1) / (count + 1)
    nearest = [int(np.abs(ends[:-1] - one).argmin()) + 1 for one in wanted] if len(ends) > 1 else []
    return list(dict.fromkeys(nearest))


def fitting(anchors: Sequence[Border], held: Sequence[int], room_bytes: int | None) -> list[Border]:
    """Those whose weights a device has room for; where that is not all, also the longest ones from and to the ends.

    Args:
        anchors: stages.
        held: bytes of weights of each unit.
        room_bytes: for weights; None: for all.

    >>> fitting([(0, 4), (0, 2), (2, 4)], [5, 1, 1, 3], 8)
    [(0, 2), (2, 4), (0, 3), (1, 4)]
    """
    until = np.concatenate([[0], np.cumsum(held)])
    last = len(held)
    if room_bytes is None or until[last] <= room_bytes:
        return list(anchors)
    kept = [(first, end) for first, end in anchors if until[end] - until[first] <= room_bytes]
    longest = max(end for end in range(last + 1) if until[end] <= room_bytes)
    shortest = min(first for first in range(last + 1) if until[last] - until[first] <= room_bytes)
    ends = [(first, end) for first, end in ((0, longest), (shortest, last)) if first < end]
    return list(dict.fromkeys([*kept, *ends]))


def stage_plan(experiment: Experiment, config: Configuration, border: Border, name: str) -> PipelinePlan:
    """The units between two points as a pipeline of their own, with tensors as they are between stages of a runtime."""
    channels_last = config.optimize and runtime(name).FORM == "operations"
    cuts = [experiment.partitioned.points[i] for i in border]
    return PipelinePlan(
        model=config.model,
        weights_sha256=experiment.weights.sha256,
        precision=config.precision,
        granularity=config.granularity,
        points=(),
        optimize=config.optimize,
        in_flight=1,
        tensors=tuple(tensor_spec(cut.activation_shape, cut.activation_dtype, channels_last) for cut in cuts),
        stages=(experiment.maker.between(*border, name, config.precision),),
    )


def _taken_s(trace: m.Trace) -> list[float]:
    moments = trace.moments
    pairs = zip(moments.compute_start_ns, moments.compute_end_ns, strict=True)
    return [(end - start) * 1e-9 for start, end in pairs]


def _busy_s(trace: m.Trace) -> float:
    return sum(_taken_s(trace))
