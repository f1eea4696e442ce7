"""`paretopipe sweep GRID.yaml`: its command line, and what is started first of all, for it takes seconds to load."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pplib.devices import load_testbed
from pplib.errors import ParetoPipeError
from pplib.grid import load_grid, loading_torch
from pplib.testbed.workers.fork_server import WORKER_SERVERS

DESCRIPTION = """Measure what a grid has not yet, its configurations interleaved; then papermill runs
notebooks/sweep.ipynb once per configuration, and the summary and the report are written. Start it again after an
interruption, or where a trial failed.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib") -> int:
    """Run a grid. Exit status: 0 when every trial is done, 1 on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog=f"{prog} sweep", description=DESCRIPTION)
    parser.add_argument("grid", type=Path, help="a YAML file whose lists expand into configurations")
    options = parser.parse_args(arguments)
    try:
        grid = load_grid(options.grid)
        testbeds = {config.devices: load_testbed(config.devices_file) for config in grid.configurations}
        for testbed in testbeds.values():
            with_torch = loading_torch(grid.configurations, testbed.names)
            for device in testbed.devices:
                if not device.remote:
                    WORKER_SERVERS[device.name in with_torch].start()
        gc.disable()  # what is loaded stays: to look for garbage in it takes a seventh of the time
        from pplib.sweep.job.grid_run import run_grid  # while the servers load what they need

        gc.enable()
        atexit.register(gc.freeze)  # at the end, too, that would take a second
        logging.getLogger("papermill").setLevel(logging.ERROR)
        return run_grid(grid, testbeds)
    except ParetoPipeError as exc:
        sys.stderr.write(f"\nerror: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: trials already done are kept; start again to do the rest\n")
        return 130
