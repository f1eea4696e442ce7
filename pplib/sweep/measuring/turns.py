"""Trials of configurations that take turns on the same workers: each stored as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pplib.config import Configuration
from pplib.errors import NoRoomError, ParetoPipeError, TrialError
from pplib.grid import loading_torch
from pplib.links import HopMeasurement, LinkProfile, LinkRecord
from pplib.pipeline.coordinator.client import WorkerLost
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.coordinator.link_measurement import measure_until_right
from pplib.records import TrialRecord, point_label
from pplib.sweep.experiment import Experiment
from pplib.sweep.measuring.schedule import Trial
from pplib.sweep.measuring.trial import provide, run_trial, verified
from pplib.sweep.progress import State, Told
from pplib.testbed.session import Session, workers_up

MAX_FAILURES_IN_A_ROW = 3

Failed = Callable[[Configuration, ParetoPipeError], None]
"""Is told of a configuration that is given up; the others go on, unless it raises."""


@dataclass
class _Part:
    """A configuration that is measured: its failures in a row, and its records since the link was last measured."""

    experiment: Experiment
    failures: int = 0
    unsettled: list[TrialRecord] = field(default_factory=list)
    over: bool = False


class LinkSeen(NamedTuple):
    """A link as it was measured last: the file of the session whose it is, its hops, and what was wrong with it."""

    session: Path
    profile: LinkProfile
    hops: list[HopMeasurement]
    wrong: str


class Measurement:
    """Runs trials; a record is stored when its trial ends, and again when the link was measured after it.

    A lost worker costs its trial, if there was one under way: the pipeline is opened again once the
    worker is back.

    Args:
        experiments: on the same devices, with the same images and cuts.
        order: the trials, each with the name of its configuration.
        store: keeps a record.
        meet: looks at the workers before they are used.
        tell: says what is being done.
        failed: see `Failed`.
        allowed: so many failures of a configuration in a row end it.
        seen: the link after the trials of the round before: in the same session it is not measured again.

    Attributes:
        seen: the link after these trials; None where a worker was lost at their end.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        order: Sequence[tuple[str, Trial]],
        store: Callable[[Experiment, TrialRecord], None],
        meet: Callable[[Experiment, Coordinator], None],
        tell: Told,
        failed: Failed,
        allowed: int = MAX_FAILURES_IN_A_ROW,
        seen: LinkSeen | None = None,
    ) -> None:
        self._parts = {one.config.identity: _Part(one) for one in experiments}
        self._remaining, self._total, self._failed, self._losses = list(order), len(order), 0, 0
        self._store, self._meet, self._tell, self._told_of = store, meet, tell, failed
        self._allowed, self.seen = allowed, seen

    def run(self) -> None:
        """See the class. Raises what `failed` and `store` raise, and a WorkerError that lasts."""
        one = next(iter(self._parts.values())).experiment
        configs = [part.experiment.config for part in self._parts.values()]
        backends, with_torch = sorted({config.backend for config in configs}), loading_torch(configs, one.testbed.names)
        self._tell(State(doing=f"starting or reaching the workers of {device_names(one)}"))
        with workers_up(one.testbed, backends, one.link.shaped, with_torch) as session:
            while self._remaining or any(part.unsettled for part in self._parts.values()):
                try:
                    with session.pipeline(one.config.num_stages) as coordinator:
                        self._greet(coordinator)
                        self._tell(State(doing="bringing images and weights to the devices, measuring the link"))
                        provide(one, coordinator)
                        self._take_turns(session, coordinator)
                except WorkerLost:  # while nothing was measured: no trial's fault
                    self._losses += 1
                    if self._losses >= self._allowed:
                        raise
        self._say("measured")

    def _greet(self, coordinator: Coordinator) -> None:
        for part in self._parts.values():
            try:
                self._meet(part.experiment, coordinator)
            except ParetoPipeError as exc:
                self._give_up(part, exc)

    def _take_turns(self, session: Session, coordinator: Coordinator) -> None:
        """Run what remains, until a worker is lost."""
        waiting = [part.experiment.link for part in self._parts.values() if part.unsettled]
        profile = (waiting or [self._parts[name].experiment.link for name, _ in self._remaining[:1]])[0]
        seen, self.seen = self.seen, None
        if seen and (seen.session, seen.profile, seen.wrong) == (session.path, profile, "") and not waiting:
            session.set_link(profile)
            before, wrong = seen.hops, ""
        else:
            before, wrong = self._measured_link(session, coordinator, profile)
        while self._remaining:
            name, trial = self._remaining[0]
            part = self._parts[name]
            if part.experiment.link != profile:
                profile = part.experiment.link
                before, wrong = self._measured_link(session, coordinator, profile)
                continue
            del self._remaining[0]
            what = f" of {name}" if len(self._parts) > 1 else ""
            config = part.experiment.config
            most = (
                f"at most {config.max_repeats}" if config.repeats == "auto" else max(config.repeats, trial.repeat + 1)
            )
            self._say(f"measuring {point_label(trial.points)}{what}, repeat {trial.repeat + 1} of {most}", trial)
            link = LinkRecord(profile=profile, engine=session.engine, tunnel=session.tunnel, before=before)
            record, error = run_trial(part.experiment, coordinator, trial, link, wrong)
            self._store(part.experiment, record)
            part.unsettled.append(record)
            self._count(part, trial, error)
            if coordinator.lost or isinstance(error, WorkerLost):
                return
            follows = [(self._parts[one].experiment.link, other.repeat) for one, other in self._remaining[:1]]
            if follows != [(profile, trial.repeat)] and (profile.shaped or not follows):
                before, wrong = self._measured_link(session, coordinator, profile)
        self.seen = LinkSeen(session.path, profile, before, wrong)

    def _measured_link(
        self, session: Session, coordinator: Coordinator, profile: LinkProfile
    ) -> tuple[list[HopMeasurement], str]:
        """The link as measured, and what is wrong with it; trials since it was last measured are settled by that."""
        session.set_link(profile)
        after, wrong = measure_until_right(coordinator, profile)
        for part in self._parts.values():
            for record in part.unsettled:
                self._store(part.experiment, verified(record, after, wrong))
            part.failures += len(part.unsettled) if wrong else 0
            part.unsettled.clear()
            if wrong and part.failures >= self._allowed:
                self._give_up(part, TrialError(f"{wrong} (start again to do the trials since the link was last right)"))
        return after, wrong

    def _count(self, part: _Part, trial: Trial, error: ParetoPipeError | None) -> None:
        self._failed += 1 if error else 0
        if not _is_of_the_cut(error):
            part.failures = part.failures + 1 if error else 0
        self._losses = self._losses + 1 if isinstance(error, WorkerLost) else 0
        if error and part.failures >= self._allowed:
            told = type(error)(
                f"{error} (at {point_label(trial.points)}, repeat {trial.repeat}; trials already done are "
                "kept; start again to do the rest)"
            )
            told.__cause__ = error
            self._give_up(part, told)
        if error and self._losses >= self._allowed:
            raise error

    def _give_up(self, part: _Part, error: ParetoPipeError) -> None:
        if not part.over:
            part.over = True
            self._remaining = [one for one in self._remaining if self._parts[one[0]] is not part]
            self._told_of(part.experiment.config, error)

    def _say(self, doing: str, trial: Trial | None = None) -> None:
        done = self._total - len(self._remaining) - (1 if trial else 0)
        repeat = trial.repeat if trial else -1
        self._tell(State(doing=doing, done=done, total=self._total, failed=self._failed, repeat=repeat))


def _is_of_the_cut(error: ParetoPipeError | None) -> bool:
    """Whether a device had no memory for its stage: another cut may do, however many do not."""
    return NoRoomError.__name__ in getattr(error, "__notes__", [])


def device_names(experiment: Experiment) -> str:
    """In words."""
    return ", ".join(device.name for device in experiment.testbed.first(experiment.config.num_stages))
