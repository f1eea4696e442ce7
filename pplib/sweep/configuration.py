"""Run one configuration: every missing trial, in randomised order, each stored as soon as it is done."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pandas as pd
from tqdm.std import tqdm

from pplib.config import Configuration
from pplib.errors import TrialError
from pplib.links import HopMeasurement, LinkProfile, LinkRecord, deviations
from pplib.records import TrialRecord, point_label, trial_path, write_record
from pplib.runtime.client import WorkerLost
from pplib.runtime.coordinator import Coordinator
from pplib.sweep.experiment import Experiment
from pplib.sweep.results import claim_folder, is_done, summary_frame
from pplib.sweep.trial import Trial, run_trial
from pplib.testbed.link_check import measure_link
from pplib.testbed.session import open_pipeline

MAX_FAILURES_IN_A_ROW = 3
LINK_ATTEMPTS = 3  # a busy moment of the machine is no wrong link


def schedule(points: list[tuple[int, ...]], repeats: int, seed: int) -> list[Trial]:
    """Every point once per repeat, each repeat in a random order of its own.

    Order within blocks keeps slow drift of a machine from looking like a difference between points.
    """
    trials: list[Trial] = []
    for repeat in range(repeats):
        block = list(points)
        random.Random(f"{seed}-{repeat}").shuffle(block)
        trials += [Trial(point, repeat, len(trials) + i) for i, point in enumerate(block)]
    return trials


def missing_trials(config: Configuration, points: list[tuple[int, ...]]) -> list[Trial]:
    """What a run that is started again still has to do."""
    return [
        trial
        for trial in schedule(points, config.repeats, config.seed)
        if not is_done(config, trial.points, trial.repeat)
    ]


def run_missing(experiment: Experiment, progress: bool = True) -> pd.DataFrame:
    """Measure what is missing of one configuration; one row per trial, those of earlier runs included.

    The link is measured before the first trial and after the last, and where it is shaped after every
    repeat of all points: a trial counts only if the link was as asked for on both sides of it.

    Raises:
        OutputError: the results folder cannot be written, or holds trials of other parameters.
        ConfigError: the link cannot be had here.
        WorkerError: a worker was lost, or trials keep failing; trials already done are kept.
        TrialError: trials keep failing, for their results or their link cannot be believed.
    """
    config = experiment.config
    claim_folder(config, experiment.testbed)
    todo = missing_trials(config, experiment.points)

    def store(record: TrialRecord) -> None:
        write_record(trial_path(config.folder, tuple(record.partition_points), record.repeat), record)

    if todo:
        with tqdm(total=len(todo), desc=config.identity, unit="trial", mininterval=1.0, disable=not progress) as bar:
            _run_all(experiment, todo, store, bar.update)
    return summary_frame(config.folder)


def run_once(experiment: Experiment) -> TrialRecord:
    """Measure the first partition of an experiment once, on live workers; nothing is written.

    Raises:
        ParetoPipeError: what went wrong.
    """
    records: list[TrialRecord] = []
    _run_all(experiment, [Trial(experiment.points[0], 0, 0)], records.append, lambda: None, failures_allowed=1)
    return records[-1]


def _run_all(
    experiment: Experiment,
    todo: Sequence[Trial],
    store: Callable[[TrialRecord], None],
    done: Callable[[], object],
    failures_allowed: int = MAX_FAILURES_IN_A_ROW,
) -> None:
    """Run trials block by block; a record is stored when its trial ends, and again when its link was verified."""
    config, profile = experiment.config, experiment.link
    failures = 0
    with open_pipeline(experiment.testbed, config.num_stages, [config.backend], profile) as (coordinator, session):
        coordinator.put_inputs(experiment.batches, experiment.input_spec)
        before, wrong = _measured_link(coordinator, profile)
        for block in _blocks(todo, profile):
            records = []
            for trial in block:
                link = LinkRecord(profile=profile, engine=session.engine, before=before)
                record, error = run_trial(experiment, coordinator, trial, link, wrong)
                store(record)
                done()
                records.append(record)
                failures = failures + 1 if error else 0
                if error and (isinstance(error, WorkerLost) or failures >= failures_allowed):
                    raise type(error)(
                        f"{error} (at {point_label(trial.points)}, repeat {trial.repeat}; trials already done are "
                        "kept; start again to do the rest)"
                    ) from error
            before, wrong = _measured_link(coordinator, profile)
            for record in records:
                store(_verified(record, before, wrong))
            if wrong:
                failures += len(records)
                if failures >= failures_allowed:
                    raise TrialError(f"{wrong} (start again to do the trials since the link was last right)")


def _blocks(todo: Sequence[Trial], profile: LinkProfile) -> list[list[Trial]]:
    """The trials between two measurements of the link."""
    if not profile.shaped:
        return [list(todo)]
    return [list(block) for _, block in itertools.groupby(todo, key=lambda trial: trial.repeat)]


def _measured_link(coordinator: Coordinator, profile: LinkProfile) -> tuple[list[HopMeasurement], str]:
    """The hops as measured, and in what they are not as asked for, after some attempts."""
    for _ in range(LINK_ATTEMPTS):
        hops = measure_link(coordinator, profile)
        found = deviations(profile, hops)
        if not found:
            return hops, ""
    return hops, f"the link is not {profile.name}: {'; '.join(found)}"


def _verified(record: TrialRecord, after: list[HopMeasurement], wrong: str) -> TrialRecord:
    """The record of a trial after which the link was measured again."""
    assert record.link is not None
    record.link.after = after
    if wrong and record.status == "ok":
        record.status, record.error, record.metrics = "failed", f"after the trial, {wrong}", {}
    return record
