"""`paretopipe sweep GRID.yaml`: measure all configurations, papermill once for each, then the analysis."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from pplib.config import PLANNED, Configuration, project_path
from pplib.devices import Testbed
from pplib.errors import ConfigError, ParetoPipeError
from pplib.files.lock import sole_sweep
from pplib.grid import Grid, loading_torch
from pplib.objectives import of_configuration
from pplib.pipeline.wire.messages import Description
from pplib.runtimes import NAMES, check_offered, installed, unfit
from pplib.sweep.claim import claim_folder, devices_content
from pplib.sweep.closing import ANSWER, closing_lines
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.job.experiment_check import check_inputs, count_units
from pplib.sweep.job.kernel import NOTEBOOKS, check_temporary_folder
from pplib.sweep.job.showing import Job, Showing
from pplib.sweep.measuring.run import run_together
from pplib.sweep.measuring.schedule import is_decided, missing_trials
from pplib.sweep.points import choose_points
from pplib.sweep.progress import Board, Told, board
from pplib.sweep.results import drop_details, has_trials, is_shown, read_summary, write_summary
from pplib.testbed.emulation.namespaces import choose_engine
from pplib.testbed.session import Session, check_private, workers_up

# What configurations of one group differ in.
_INTERLEAVED = ("backend", "link", "in_flight", "max_trial_s", "runtime", "precision", "wire", "variant")

_ANALYSIS = "the analysis"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A part of a grid that did not work."""

    what: str
    error: ParetoPipeError


def run_grid(grid: Grid, testbeds: Mapping[str, Testbed]) -> int:
    """Measure what is missing of a grid, write the summary and the report, and say where they are.

    A configuration that fails does not keep the others from being measured.

    Args:
        grid: what to measure.
        testbeds: by the name of each device file that it names, what that says.

    Returns:
        0 where every trial is done, else 1.

    Raises:
        ParetoPipeError: bad input, found before a worker is started, or results that cannot be written.
    """
    check_temporary_folder()
    results = grid.configurations[0].results
    planned = _planned(grid.configurations, testbeds)
    with sole_sweep([results, *[config.folder for config in grid.configurations]]), Showing() as showing:
        for config in grid.configurations:
            claim_folder(config, testbeds[config.devices])
        missing = {config.identity: _missing(config, planned[config.identity]) for config in grid.configurations}
        unfinished = [config for config in grid.configurations if missing[config.identity]]
        check_inputs(unfinished)
        failures, closing = list[Failure](), list[str]()
        groups = _groups(unfinished)
        with board({_title(group): sum(missing[c.identity] for c in group) for group in groups}) as said:
            for devices, testbed in testbeds.items():
                for shaped in (False, True):
                    mine = [g for g in groups if g[0].devices == devices and g[0].link_profile.shaped == shaped]
                    failures += _run_groups(mine, testbed, shaped, showing, said)
            if has_trials(results):
                given_up = {failure.what for failure in failures}
                kept = [one for one in grid.configurations if grid.keep == "all" and one.identity not in given_up]
                kept = [one for one in kept if has_trials(one.folder) and not is_shown(one)]
                failed, closing = _show(results, kept, grid.configurations[0], showing, said)
                failures += failed
        if grid.keep == "summary":
            drop_details(grid.configurations)
        return _tell(results, failures, closing)


def _planned(
    configurations: Sequence[Configuration], testbeds: Mapping[str, Testbed]
) -> dict[str, list[tuple[int, ...]]]:
    """Check what can be checked without weights or workers; the partitions of each configuration, by its folder.

    Those that are chosen by what the units cost are not known yet: an empty list.
    """
    counts: dict[tuple[object, ...], int] = {}
    proven: dict[object, nn.Module] = {}
    planned: dict[str, list[tuple[int, ...]]] = {}
    for config in configurations:
        testbed = testbeds[config.devices]
        testbed.first(config.num_stages)
        testbed.check_backend(config.backend)
        devices = testbed.first(config.num_stages)
        offered = [
            (one.name, NAMES, {}) if one.remote else (one.name, installed(), unfit(one.torch_device)) for one in devices
        ]
        check_offered(config.runtime, offered)
        if config.link_profile.shaped:
            choose_engine(testbed.link_engine)
        key = (config.model, config.weights, config.num_classes, config.granularity, config.batch_size)
        if key not in counts:
            counts[key] = count_units(config, proven)
        planned[config.identity] = choose_points(config, counts[key])
    return planned


def _missing(config: Configuration, points: list[tuple[int, ...]]) -> float:
    """How many trials are to be done; infinite where that is not known before they are."""
    if config.partition_points == "plan" and not is_decided(config):
        return math.inf
    if not points:
        return config.first_repeats
    return len(missing_trials(config, points)) or (0 if is_decided(config) else 1)


def _groups(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Those that are measured in interleaved blocks: on the same workers, with the same images and cuts."""
    groups: dict[object, list[Configuration]] = {}
    for config in configurations:
        alike = {key: value for key, value in config.as_dict().items() if key not in _INTERLEAVED}
        groups.setdefault((str(alike), config.link_profile.shaped), []).append(config)
    return list(groups.values())


def _title(group: Sequence[Configuration]) -> str:
    return group[0].identity + (f" and {len(group) - 1} more" if len(group) > 1 else "")


def _run_groups(
    groups: Sequence[list[Configuration]], testbed: Testbed, shaped: bool, showing: Showing, said: Board
) -> list[Failure]:
    """Measure what is missing of each group, all on the same workers.

    Returns:
        What failed.
    """
    left, failures = [config for group in groups for config in group], list[Failure]()

    def note(config: Configuration, error: ParetoPipeError) -> None:
        failures.append(Failure(config.identity, error))
        said.failed(config.identity, str(error))
        left.remove(config)

    for config in list(left):
        try:
            check_private(testbed, config.backend, shaped)
        except ConfigError as exc:  # sockets go on
            note(config, exc)
    if not left:
        return failures
    said.say(f"starting the workers of {', '.join(device.name for device in testbed.devices)}")
    try:
        backends = sorted({config.backend for config in left})
        with workers_up(testbed, backends, shaped, loading_torch(left, testbed.names)) as session:
            _look_at_devices(session, left, testbed, note)
            for group in groups:
                if mine := [config for config in group if config in left]:
                    said.begin(_title(group))
                    if mine[0].partition_points in PLANNED:  # devices are profiled
                        showing.wait_ready()
                    try:
                        experiments = _experiments(mine)
                        showing.wait_ready()
                        run_together(experiments, Told(False), note)
                    except ParetoPipeError as exc:
                        for config in [one for one in mine if one in left]:
                            note(config, exc)
                    left[:] = [config for config in left if config not in mine]
    except ParetoPipeError as exc:  # the workers did not start: none of these can be measured
        if not left:
            raise
        for config in list(left):
            note(config, exc)
    return failures


def _experiments(group: Sequence[Configuration]) -> list[Experiment]:
    """What a group measures: the model is loaded and its cuts are proven once."""
    one = prepare(group[0], progress=False)
    return [dataclasses.replace(one, config=config, link=config.link_profile) for config in group]


def _show(
    results: Path, configurations: Sequence[Configuration], wanted: Configuration, showing: Showing, said: Board
) -> tuple[list[Failure], list[str]]:
    """Write the summary, and have notebooks show what was measured, several at a time: nothing is measured any more.

    Returns:
        What failed, the others went on; and what to read first: nothing if no trial succeeded.
    """
    jobs = {
        one.identity: ("sweep.ipynb", one.folder, {**one.as_dict(), "output_dir": str(project_path(one.output_dir))})
        for one in configurations
    }
    said.say("writing summary and report" + (f", and the notebooks of {len(jobs)} configurations" if jobs else ""))
    frame = read_summary(write_summary(results))
    succeeded = bool((frame["status"] == "ok").any())
    if succeeded:
        values: dict[str, object] = {"results": str(results)}
        values |= {key: getattr(wanted, key) for key in ("indifference", "objectives", "limits")}
        jobs = {_ANALYSIS: ("analyze.ipynb", results, values), **jobs}  # it takes longest
    showing.begin([Job(what, NOTEBOOKS / book, folder / book, values) for what, (book, folder, values) in jobs.items()])
    failed, closing = showing.wait(), list[str]()
    if succeeded:  # the analysis has written what to read first
        aims = of_configuration(wanted)
        closing = closing_lines(frame, aims) if _ANALYSIS in failed else (results / ANSWER).read_text().splitlines()
    return [Failure(what, failed[what]) for what in jobs if what in failed], closing


def _look_at_devices(
    session: Session,
    configurations: Sequence[Configuration],
    testbed: Testbed,
    note: Callable[[Configuration, ParetoPipeError], None],
) -> None:
    """Have `note` get those that cannot be continued on the devices that answered, before any is measured."""
    told: dict[int, list[Description]] = {}
    for config in list(configurations):
        if (count := config.num_stages) not in told:
            with session.pipeline(count) as coordinator:
                told[count] = [worker.description for worker in coordinator.workers]
        try:
            claim_folder(config, testbed, devices_content(config, told[count]))
        except ParetoPipeError as exc:
            note(config, exc)


def _tell(results: Path, failures: Sequence[Failure], closing: Sequence[str]) -> int:
    """Print where the results are, what they say (`closing`), and what failed; the exit status."""
    lines, failed = [""], 0
    if has_trials(results):
        frame = read_summary(results / "summary.csv")
        lines += [f"summary: {results / 'summary.csv'}"]
        lines += [f"report:  {results / 'report.html'}", *closing] if closing else []
        failed = int((frame["status"] != "ok").sum())
        if failed:
            first = frame[frame["status"] != "ok"].iloc[0]
            lines.append(
                f"failed:  {failed} of {len(frame)} trials; the first: {first['partition_label']}: {first['error']}"
            )
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
    for failure in failures:
        sys.stderr.write(f"\nerror: {failure.what}: {failure.error}\n")
    if failures:
        sys.stderr.write(f"\n{len(failures)} part(s) failed: start again to do what is missing, and only that\n")
    return 1 if failed or failures else 0
