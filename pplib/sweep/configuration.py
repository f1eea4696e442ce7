"""Run one configuration: every missing trial, in randomised order, each stored as soon as it is done."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
from tqdm.std import tqdm

from pplib.config import Configuration
from pplib.errors import TrialError, WorkerError
from pplib.links import HopMeasurement, LinkProfile, LinkRecord, deviations
from pplib.records import TrialRecord, point_label, trial_path, write_record
from pplib.runtime.client import WEIGHTS_S, WorkerLost
from pplib.runtime.coordinator import Coordinator
from pplib.runtime.weights_transfer import send_weights
from pplib.sweep.experiment import Experiment
from pplib.sweep.results import claim_folder, is_done, summary_frame
from pplib.sweep.trial import Trial, run_trial
from pplib.testbed.link_check import measure_link
from pplib.testbed.parallel import all_or_error, for_each
from pplib.testbed.session import workers_up

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
        WorkerError: a worker cannot be brought back, or trials keep failing; trials already done are kept.
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
    """Run trials; a record is stored when its trial ends, and again when the link was measured after it.

    A lost worker costs its trial, if there was one under way: the pipeline is opened again once the
    worker is back.
    """
    config, profile = experiment.config, experiment.link
    remaining, unsettled, failures = list(todo), list[TrialRecord](), 0

    def settle(after: list[HopMeasurement], wrong: str) -> None:
        nonlocal failures
        for record in unsettled:
            store(_verified(record, after, wrong))
        failures += len(unsettled) if wrong else 0
        unsettled.clear()
        if wrong and failures >= failures_allowed:
            raise TrialError(f"{wrong} (start again to do the trials since the link was last right)")

    def count_failure(error: WorkerLost) -> None:
        nonlocal failures
        failures += 1
        if failures >= failures_allowed:
            raise error

    with workers_up(experiment.testbed, [config.backend], profile.shaped, [config.model]) as session:
        session.set_link(profile)
        while remaining or unsettled:
            with _outside_trials(count_failure), session.pipeline(config.num_stages) as coordinator:
                _provide(experiment, coordinator)
                before, wrong = _measured_link(coordinator, profile)
                settle(before, wrong)
                while remaining:
                    trial = remaining.pop(0)
                    link = LinkRecord(profile=profile, engine=session.engine, tunnel=session.tunnel, before=before)
                    record, error = run_trial(experiment, coordinator, trial, link, wrong)
                    store(record)
                    done()
                    unsettled.append(record)
                    failures = failures + 1 if error else 0
                    if error and failures >= failures_allowed:
                        raise type(error)(
                            f"{error} (at {point_label(trial.points)}, repeat {trial.repeat}; trials already done are "
                            "kept; start again to do the rest)"
                        ) from error
                    if coordinator.lost or isinstance(error, WorkerLost):
                        break
                    if not remaining or (profile.shaped and remaining[0].repeat != trial.repeat):
                        before, wrong = _measured_link(coordinator, profile)
                        settle(before, wrong)


@contextlib.contextmanager
def _outside_trials(lost: Callable[[WorkerLost], None]) -> Iterator[None]:
    """A worker that is lost while nothing is measured: `lost` decides whether to go on without a word."""
    try:
        yield
    except WorkerLost as exc:
        lost(exc)


def _provide(experiment: Experiment, coordinator: Coordinator) -> None:
    """Give the devices what they need once: the images to the first, the weights to those that lack them."""
    coordinator.put_inputs(experiment.batches, experiment.input_spec)
    sent = for_each(coordinator.workers, lambda worker: send_weights(worker, experiment.weights), WEIGHTS_S)
    all_or_error(sent)


def _measured_link(coordinator: Coordinator, profile: LinkProfile) -> tuple[list[HopMeasurement], str]:
    """The hops as measured, and in what they are not as asked for, after some attempts.

    Raises:
        WorkerLost: a worker is gone; a link that is down is no error, but wrong.
    """
    hops, wrong = list[HopMeasurement](), ""
    for _ in range(LINK_ATTEMPTS):
        try:
            hops = measure_link(coordinator, profile)
        except WorkerLost:
            raise
        except WorkerError as exc:
            hops, wrong = [], f"the link could not be measured: {exc}"
            continue
        found = deviations(profile, hops)
        if not found:
            return hops, ""
        wrong = f"the link is not {profile.name}: {'; '.join(found)}"
    return hops, wrong


def _verified(record: TrialRecord, after: list[HopMeasurement], wrong: str) -> TrialRecord:
    """The record of a trial after which the link was measured again."""
    assert record.link is not None
    record.link.after = after
    if wrong and record.status == "ok":
        record.status, record.error, record.metrics = "failed", f"after the trial, {wrong}", {}
    return record
