"""What a worker takes on a device, for each runtime: the size of its environment, its memory, and its start.

    python benchmarks/footprint.py eager=~/envs/pi/bin/python onnxruntime=~/envs/onnxruntime/bin/python [--rounds 7]

Each is the interpreter of an environment that has what that runtime's requirements file lists, on this machine. A
worker is started by itself, as on a device, on one core, then has stage 1 of MobileNetV2 cut at P10 built (four images
a microbatch); in turns, a round each. Printed are medians over the rounds, with the smallest and the largest: seconds
from the start of the process until it says that it is ready (of the first round, whose files are not in the cache
yet, apart), its resident memory then and with the stage, and the size of the environment's packages on disk.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from pplib import ROOT
from pplib.config import configuration
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import endpoint_of
from pplib.pipeline.worker.command_line import read_ready
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.runtimes import needs_torch
from pplib.sweep.experiment import Experiment, prepare

POINTS = (10,)


def experiment_of(runtime: str) -> Experiment:
    """MobileNetV2, cut in its middle, for a runtime."""
    values = {"num_images": 8, "batch_size": 4, "partition_points": list(POINTS), "runtime": runtime}
    return prepare(configuration(values), progress=False)


@contextmanager
def worker(python: Path, runtime: str) -> Iterator[tuple[WorkerClient, float, psutil.Process]]:
    """A worker by itself, how long it took to be ready in s, and its process."""
    core = max(os.sched_getaffinity(0))
    with_torch = needs_torch(runtime)
    settings = WorkerSettings(name=runtime, token=secrets.token_bytes(32), cores=(core,), loads_torch=with_torch)
    start = time.monotonic()
    command = [str(python), "-m", "workers.socket_worker", runtime]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin and process.stdout
        process.stdin.write(settings.line)
        process.stdin.flush()
        ready = read_ready(process.stdout.readline(), runtime)
        took_s = time.monotonic() - start
        client = WorkerClient(runtime, endpoint_of(ready.control), settings.token)
        try:
            yield client, took_s, psutil.Process(ready.pid)
        finally:
            client.close()
            process.stdin.close()


def measured(python: Path, experiment: Experiment) -> tuple[float, float, float]:
    """Seconds until it is ready, and its resident bytes then and with the stage."""
    with worker(python, experiment.config.runtime) as (client, took_s, process):
        before = float(process.memory_info().rss)
        for file in experiment.maker.files.values():
            send_weights(client, file)
        built = client.expect(m.Prepare(plan=experiment.plan(POINTS), stage_index=1), m.Prepared, 120)
        return took_s, before, float(built.resident_bytes)


def packages_bytes(python: Path) -> float:
    """What the packages of an environment take on disk."""
    said = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return float(sum(path.stat().st_size for path in Path(said.stdout.strip()).rglob("*") if path.is_file()))


def shown(values: Sequence[float]) -> str:
    """Median [smallest, largest]."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", metavar="RUNTIME=PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    pythons = {name: Path(path).expanduser() for name, path in (one.split("=", 1) for one in options.pythons)}
    experiments = {name: experiment_of(name) for name in pythons}
    found = {name: list[tuple[float, float, float]]() for name in pythons}
    for _ in range(options.rounds + 1):
        for name, python in pythons.items():
            found[name].append(measured(python, experiments[name]))
    head = ("runtime", "ready, s", "first, s", "ready, MB", "with a stage, MB", "packages, MB")
    print(f"{head[0]:<12} {head[1]:<20} {head[2]:<9} {head[3]:<18} {head[4]:<18} {head[5]}")
    for name, (first, *rest) in found.items():
        ready, before, staged = zip(*rest, strict=True)
        print(
            f"{name:<12} {shown(ready):<20} {first[0]:<9.3g} {shown([one / 1e6 for one in before]):<18} "
            f"{shown([one / 1e6 for one in staged]):<18} {packages_bytes(pythons[name]) / 1e6:.0f}"
        )


if __name__ == "__main__":
    main()
