"""Measure configurations: every missing trial, in random order, each stored as soon as it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence

import pandas as pd

from pplib.config import PLANNED, Configuration
from pplib.errors import ParetoPipeError
from pplib.files.lock import sole_sweep
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.records import TrialRecord, trial_path, write_record
from pplib.sweep.claim import claim_folder, devices_content
from pplib.sweep.experiment import Experiment, points_frame, proven
from pplib.sweep.measuring.schedule import (
    Trial,
    failed_before,
    interleaved,
    is_late,
    missing_trials,
    next_round,
    note_decided,
    once_more,
    planned_round,
)
from pplib.sweep.measuring.turns import Failed, Measurement
from pplib.sweep.planning.choosing import choose
from pplib.sweep.planning.profiling import profiled_pipelines
from pplib.sweep.progress import Told
from pplib.sweep.results import summary_frame, write_cuts


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

    The link is measured before the first trial and after the last of every round, and where it is shaped after every
    repeat of all points: a trial counts only if the link was as asked for on both sides of it.

    Raises:
        ParetoPipeError: a worker cannot be brought back, results cannot be written.
    """
    with sole_sweep([one.config.folder for one in experiments]), contextlib.ExitStack() as stack:
        ready, begun = dict[str, Experiment](), time.monotonic()

        def given_up(config: Configuration, error: ParetoPipeError) -> None:
            ready.pop(config.identity, None)
            failed(config, error)

        for experiment in experiments:
            config = experiment.config
            try:
                claim_folder(config, experiment.testbed, experiment.content)
                write_cuts(config, points_frame(experiment))
                ready[config.identity] = experiment
            except ParetoPipeError as exc:
                failed(config, exc)
        planned = [one for one in ready.values() if one.config.partition_points in PLANNED and not _is_chosen(one)]
        pipelines = profiled_pipelines(planned, tell, stack)
        todo, seen = dict[str, list[Trial]](), None
        for number in itertools.count():
            minutes = (time.monotonic() - begun) / 60
            for name, one in list(ready.items()):
                try:
                    if name in pipelines:
                        points = choose(one.config, pipelines[name], not is_late(one.config, minutes))
                        again = [] if number else failed_before(one.config, one.points)
                        grows = len(points) > len(one.points)
                        todo[name] = [*again, *planned_round(one.config, points, grows)]
                        ready[name] = dataclasses.replace(one, points=points)
                    elif not number:
                        todo[name] = missing_trials(one.config, one.points)
                except ParetoPipeError as exc:
                    given_up(one.config, exc)
            if not any(todo.values()):
                todo = {name: once_more(one.config, one.points) for name, one in ready.items()}
            if not any(todo.values()):
                todo = next_round([(one.config, one.points) for one in ready.values()], minutes)
            now = dict[str, Experiment]()
            for name in [one for one, trials in todo.items() if trials and one in ready]:
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
            measurement = Measurement(list(now.values()), order, _store, _meet, tell, given_up, seen=seen)
            measurement.run()
            seen = measurement.seen
            todo = {}
        for one in ready.values():
            note_decided(one.config)


def run_once(experiment: Experiment, points: tuple[int, ...] | None = None) -> TrialRecord:
    """Measure one partition of an experiment once, on live workers: the first if none is given; nothing is written.

    Raises:
        ParetoPipeError: what went wrong.
    """
    records: list[TrialRecord] = []
    with contextlib.ExitStack() as stack:
        if points is not None:
            experiment = dataclasses.replace(experiment, points=[points])
        elif experiment.config.partition_points in PLANNED and not experiment.points:
            (pipeline,) = profiled_pipelines([experiment], Told(False), stack).values()
            experiment = dataclasses.replace(experiment, points=choose(experiment.config, pipeline, keep=False))
        experiment = proven(experiment, Told(False))
        once = [(experiment.config.identity, Trial(experiment.points[0], 0, 0))]
        Measurement(
            [experiment], once, lambda _, one: records.append(one), lambda *_: None, Told(False), _raise, 1
        ).run()
    return records[-1]


def _is_chosen(experiment: Experiment) -> bool:
    return experiment.config.partition_points == "auto" and bool(experiment.points)


def _store(experiment: Experiment, record: TrialRecord) -> None:
    write_record(trial_path(experiment.config.folder, tuple(record.partition_points), record.repeat), record)


def _meet(experiment: Experiment, coordinator: Coordinator) -> None:
    """Make sure that the workers' machines are those that its earlier trials ran on."""
    told = devices_content(experiment.config, [worker.description for worker in coordinator.workers])
    claim_folder(experiment.config, experiment.testbed, {**experiment.content, **told})


def _raise(config: Configuration, error: ParetoPipeError) -> None:
    raise error
