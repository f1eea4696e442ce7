"""Whether a second sweep says what the first said: a grid twice in a row, then `paretopipe compare`.

    python -m benchmarks.twice [params/default.yaml] [--busy CORE]

With `--busy 1` a loop keeps core 1 busy meanwhile, coming and going at random, for 5 to 30 s at a time. The results are
outputs/once and outputs/twice, which must not be there yet; some ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from pplib.compare.__main__ import main as compare
from pplib.config import project_path
from pplib.errors import ConfigError
from pplib.files.yaml_file import read_yaml
from pplib.sweep.job.command import main as sweep

NAMES = ("once", "twice")
SHORTEST_S, LONGEST_S = 5.0, 30.0


def come_and_go(core: int) -> None:
    """Keep a core busy now and then, until this process is ended."""
    os.sched_setaffinity(0, {core})
    while True:
        time.sleep(random.uniform(SHORTEST_S, LONGEST_S))
        end = time.monotonic() + random.uniform(SHORTEST_S, LONGEST_S)
        while time.monotonic() < end:
            pass


@contextlib.contextmanager
def busy(core: int | None) -> Iterator[None]:
    """A load on a core, if one is given, while this context lasts."""
    if core is None:
        yield
        return
    load = multiprocessing.get_context("spawn").Process(target=come_and_go, args=(core,), daemon=True)
    load.start()
    try:
        yield
    finally:
        load.kill()
        load.join()


def main() -> int:
    """Sweep twice and compare; the exit status is that of what failed first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, nargs="?", default=Path("params/default.yaml"))
    parser.add_argument("--busy", type=int, metavar="CORE")
    options = parser.parse_args()
    values = read_yaml(options.grid)
    results = [project_path(str(values.get("output_dir", "outputs"))) / name for name in NAMES]
    for folder in results:
        if folder.exists():
            raise ConfigError(f"{folder}: expected no such folder, for both are measured now: move it away")
    with tempfile.TemporaryDirectory() as place, busy(options.busy):
        for name in NAMES:
            grid = Path(place) / f"{name}.yaml"
            grid.write_text(yaml.safe_dump({**values, "name": name}))
            if status := sweep([str(grid)]):
                return status
    return compare([str(folder) for folder in results])


if __name__ == "__main__":
    sys.exit(main())
