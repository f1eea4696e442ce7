"""`python -m pplib.sweep GRID.yaml`: papermill once per configuration, then the analysis."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.std import tqdm
from traitlets.config import Config

from pplib.analysis.pareto import pareto_front
from pplib.analysis.statistics import CONFIGURATION_KEYS, point_table
from pplib.config import Configuration, load_grid, project_path
from pplib.devices import Testbed, load_testbed
from pplib.errors import ConfigError, ParetoPipeError, nearest
from pplib.links import UNSHAPED
from pplib.records import not_written
from pplib.sweep.configuration import missing_trials
from pplib.sweep.experiment import choose_points, count_units
from pplib.sweep.report import OBJECTIVES
from pplib.sweep.results import claim_folder, drop_details, read_summary, write_summary
from pplib.testbed.namespaces import choose_engine
from pplib.testbed.session import workers_up

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


_KERNELS = Config({"KernelManager": {"transport": "ipc"}})  # not over TCP, where any user could talk to it


class NotebookError(ParetoPipeError):
    """A notebook stopped at a failing cell; the executed copy shows where."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a grid. Exit status: 0 when every trial is done, 1 on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m pplib.sweep", description=__doc__)
    parser.add_argument("grid", type=Path, help="a YAML file whose lists expand into configurations")
    options = parser.parse_args(arguments)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        failed = run_grid(options.grid)
    except ParetoPipeError as exc:
        sys.stderr.write(f"\nerror: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: trials already done are kept; start again to do the rest\n")
        return 130
    return 1 if failed else 0


def run_grid(path: Path) -> int:
    """Measure what is missing of a grid, write the summary and the report, and say where they are.

    Returns:
        How many trials failed.

    Raises:
        ParetoPipeError: bad input, found before a worker is started, or a configuration that stopped.
    """
    grid = load_grid(path)
    first = grid.configurations[0]
    testbed = load_testbed(project_path(first.devices))
    points = {config.identity: _points(config) for config in grid.configurations}
    if any(config.link_profile.shaped for config in grid.configurations):
        choose_engine(testbed.link_engine)
    for config in grid.configurations:
        testbed.first(config.num_stages)
        testbed.check_backend(config.backend)
        claim_folder(config, testbed)
    unfinished = [config for config in grid.configurations if not _is_complete(config, points[config.identity])]
    if unfinished:
        total = sum(config.repeats * (points[config.identity][1] or 1) for config in grid.configurations)
        with _progress(first.results, total):
            for shaped in (False, True):
                _run_configurations([one for one in unfinished if one.link_profile.shaped == shaped], testbed, shaped)
    summary = write_summary(first.results)
    execute(NOTEBOOKS / "analyze.ipynb", first.results / "analyze.ipynb", {"results": str(first.results)})
    if grid.keep == "summary":
        drop_details(first.results)
    return _tell(summary)


def _run_configurations(configurations: Sequence[Configuration], testbed: Testbed, shaped: bool) -> None:
    """Execute the sweep notebook for each, all on the same workers: the link is shaped here, for those that ask."""
    if not configurations:
        return
    backends = sorted({config.backend for config in configurations})
    models = sorted({config.model for config in configurations})
    with workers_up(testbed, backends, shaped, models) as session:
        for config in configurations:
            session.set_link(config.link_profile)
            execute(
                NOTEBOOKS / "sweep.ipynb",
                config.folder / "sweep.ipynb",
                {**config.as_dict(), "output_dir": str(project_path(config.output_dir))},
            )


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Execute a notebook with papermill; the executed copy is kept whatever happens.

    Raises:
        ConfigError: a parameter the notebook does not have.
        NotebookError: a cell failed; its error, and where the executed copy is.
        OutputError: the executed copy cannot be written.
    """
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ConfigError(f"{notebook.name}: {name}: unknown parameter; {nearest(name, known)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(notebook),
            str(output),
            dict(parameters),
            progress_bar=False,
            cwd=str(Path.cwd()),
            config=_KERNELS,
        )
    except PapermillExecutionError as exc:
        raise NotebookError(f"{exc.ename.rpartition('.')[2]}: {exc.evalue}\nthe executed copy is {output}") from exc
    except OSError as exc:
        raise not_written(output, exc) from exc
    except DeadKernelError as exc:
        raise NotebookError(
            f"the kernel of {notebook.name} died (killed, or out of memory): trials already done are kept; start "
            f"again to do the rest\nthe executed copy is {output}"
        ) from exc


def _points(config: Configuration) -> tuple[list[tuple[int, ...]], int]:
    """The partitions of a configuration as far as they are known without its weights, and how many there are."""
    if config.partition_points == "auto":
        return [], 1
    points = choose_points(config, count_units(config), list)
    return points, len(points)


def _is_complete(config: Configuration, points: tuple[list[tuple[int, ...]], int]) -> bool:
    return bool(points[0]) and not missing_trials(config, points[0])


@contextlib.contextmanager
def _progress(results: Path, total: int) -> Iterator[None]:
    """A progress bar over the trial files that appear under `results`."""
    done = threading.Event()

    def watch() -> None:
        def count() -> int:
            return sum(1 for _ in results.glob("*/trials/*.json"))

        with tqdm(total=total, desc="trials", unit="trial", initial=min(count(), total)) as bar:
            while not done.wait(1.0 if sys.stderr.isatty() else 10.0):
                bar.update(count() - bar.n)
            bar.update(count() - bar.n)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)


def _tell(summary: Path) -> int:
    frame = read_summary(summary)
    points = point_table(frame)
    lines = [f"summary: {summary}", f"report:  {summary.parent / 'report.html'}"]
    for key, group in points.groupby(CONFIGURATION_KEYS, dropna=False, sort=True):
        named = dict(zip(CONFIGURATION_KEYS, key, strict=True))
        front = pareto_front(group, OBJECTIVES)
        where = ", ".join(f"{name}" for name in front["partition_label"])
        over = "" if named["link"] == UNSHAPED.name else f" over {named['link']}"
        lines.append(f"front:   {named['model']} {named['backend']}{over} in flight {named['in_flight']}: {where}")
    failed = int((frame["status"] != "ok").sum())
    if failed:
        first = frame[frame["status"] != "ok"].iloc[0]
        lines.append(
            f"failed:  {failed} of {len(frame)} trials; the first: {first['partition_label']}: {first['error']}"
        )
    sys.stdout.write("\n".join(["", *lines, ""]))
    return failed
