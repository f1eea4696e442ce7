"""Measure configurations: every missing trial, in random order, each stored as soon as it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pplib.config import Configuration
from pplib.errors import ParetoPipeError, TrialError
from pplib.files.lock import sole_sweep
from pplib.grid import loading_torch
from pplib.links import HopMeasurement, LinkProfile, LinkRecord
from pplib.pipeline.coordinator.client import WorkerLost
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.coordinator.link_measurement import measure_until_right
from pplib.records import TrialRecord, point_label, trial_path, write_record
from pplib.sweep.auto import store_choice
from pplib.sweep.claim import claim_folder, devices_content
from pplib.sweep.experiment import Experiment, points_frame, proven
from pplib.sweep.progress import State, Told
from pplib.sweep.results import summary_frame, write_cuts
from pplib.sweep.schedule import Trial, interleaved, missing_trials, next_round, note_decided, once_more
from pplib.sweep.speeds import is_settled, settle, time_stages
from pplib.sweep.trial import provide, run_trial, verified
from pplib.testbed.session import Session, workers_up

MAX_FAILURES_IN_A_ROW = 3

Failed = Callable[[Configuration, ParetoPipeError], None]
"""Is told of a configuration that is given up; the others go on, unless it raises."""


def run_missing(experiment: Experiment, progress: bool = True) -> pd.DataFrame:
    """Measure what is missing of one configuration; one row per trial, those of earlier runs included.

    Raises:
        OutputError: the results folder cannot be written, or holds trials of other parameters.
        ConfigError: the link cannot be had here.
        WorkerError: a worker cannot be brought back, or trials keep failing; trials already done are kept.
        TrialError: trials keep failing, for their results or their link cannot be believed.
    """
    run_together([experiment], Told(progress), _raise)
    return summary_frame(experiment.config.folder)


def run_together(experiments: Sequence[Experiment], tell: Told, failed: Failed) -> None:
    """Measure what is missing of configurations that differ in backend, link or depth, in interleaved blocks.

    The link is measured before the first trial and after the last, and where it is shaped after every
    repeat of all points: a trial counts only if the link was as asked for on both sides of it.

    Raises:
        ParetoPipeError: a worker cannot be brought back, results cannot be written.
    """
    with sole_sweep([one.config.folder for one in experiments]), contextlib.ExitStack() as stack:
        ready, todo, begun = dict[str, Experiment](), dict[str, list[Trial]](), time.monotonic()

        def given_up(config: Configuration, error: ParetoPipeError) -> None:
            ready.pop(config.identity, None)
            failed(config, error)

        for experiment in experiments:
            try:
                one, trials = _begun(experiment, tell, stack)
            except ParetoPipeError as exc:
                failed(experiment.config, exc)
                continue
            ready[one.config.identity], todo[one.config.identity] = one, trials
        while True:
            if not any(todo.values()):
                todo = {name: once_more(one.config, one.points) for name, one in ready.items()}
            if not any(todo.values()):
                minutes = (time.monotonic() - begun) / 60
                todo = next_round([(one.config, one.points) for one in ready.values()], minutes)
            now = dict[str, Experiment]()
            for name in [one for one, trials in todo.items() if trials]:
                try:
                    now[name] = ready[name] = proven(ready[name], tell)
                except ParetoPipeError as exc:
                    given_up(ready[name].config, exc)
            if not now:
                break
            order = interleaved(
                {name: todo[name] for name in now},
                {name: one.link.name for name, one in now.items()},
                experiments[0].config.seed,
            )
            _Measurement(list(now.values()), order, _store, _meet, tell, given_up).run()
            todo = {}
        for one in ready.values():
            note_decided(one.config)


def run_once(experiment: Experiment) -> TrialRecord:
    """Measure the first partition of an experiment once, on live workers; nothing is written.

    Raises:
        ParetoPipeError: what went wrong.
    """
    records: list[TrialRecord] = []
    with contextlib.ExitStack() as stack:
        experiment = proven(_settled(experiment, Told(False), stack), Told(False))
        once = [(experiment.config.identity, Trial(experiment.points[0], 0, 0))]
        _Measurement(
            [experiment], once, lambda _, one: records.append(one), lambda *_: None, Told(False), _raise, 1
        ).run()
    return records[-1]


def _begun(experiment: Experiment, tell: Told, stack: contextlib.ExitStack) -> tuple[Experiment, list[Trial]]:
    """The experiment with its folder claimed, its partition decided and its cuts proven; and what is missing of it."""
    config = experiment.config
    claim_folder(config, experiment.testbed, experiment.content)
    experiment = _settled(experiment, tell, stack)
    if experiment.auto is not None:
        store_choice(config, experiment.auto)
    write_cuts(config, points_frame(experiment))
    return experiment, missing_trials(config, experiment.points)


def _settled(experiment: Experiment, tell: Told, stack: contextlib.ExitStack) -> Experiment:
    """The experiment with its partition decided: for `auto` the devices are timed first, once.

    Their workers stay up until `stack` unwinds, for the trials.
    """
    if is_settled(experiment):
        return experiment
    experiment = proven(experiment, tell)
    config, profile = experiment.config, experiment.link
    tell(State(doing=f"starting or reaching the workers of {_names(experiment)}"))
    with_torch = loading_torch([config], experiment.testbed.names)
    session = stack.enter_context(workers_up(experiment.testbed, [config.backend], profile.shaped, with_torch))
    session.set_link(profile)
    with session.pipeline(config.num_stages) as coordinator:
        tell(State(doing=f"timing {_names(experiment)} with a stage each"))
        provide(experiment, coordinator)
        return settle(experiment, time_stages(experiment, coordinator))


def _store(experiment: Experiment, record: TrialRecord) -> None:
    write_record(trial_path(experiment.config.folder, tuple(record.partition_points), record.repeat), record)


def _meet(experiment: Experiment, coordinator: Coordinator) -> None:
    """Make sure that the workers' machines are those that its earlier trials ran on."""
    told = devices_content(experiment.config, [worker.description for worker in coordinator.workers])
    claim_folder(experiment.config, experiment.testbed, {**experiment.content, **told})


def _raise(config: Configuration, error: ParetoPipeError) -> None:
    raise error


@dataclass
class _Part:
    """A configuration that is measured: its failures in a row, and its records since the link was last measured."""

    experiment: Experiment
    failures: int = 0
    unsettled: list[TrialRecord] = field(default_factory=list)
    over: bool = False


class _Measurement:
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
    ) -> None:
        self._parts = {one.config.identity: _Part(one) for one in experiments}
        self._remaining, self._total, self._failed, self._losses = list(order), len(order), 0, 0
        self._store, self._meet, self._tell, self._told_of = store, meet, tell, failed
        self._allowed = allowed

    def run(self) -> None:
        """See the class. Raises what `failed` and `store` raise, and a WorkerError that lasts."""
        one = next(iter(self._parts.values())).experiment
        configs = [part.experiment.config for part in self._parts.values()]
        backends, with_torch = sorted({config.backend for config in configs}), loading_torch(configs, one.testbed.names)
        self._tell(State(doing=f"starting or reaching the workers of {_names(one)}"))
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


def _names(experiment: Experiment) -> str:
    return ", ".join(device.name for device in experiment.testbed.first(experiment.config.num_stages))
