"""What sealed frames cost a pipeline: pairs of trials, one sealed and one not, between the same two cores.

    python benchmarks/seal.py [--model mobilenet_v2] [--points 1 3 7 14] [--pairs 10] [--in-flight 2] [--rate-mbit 1000]

Four workers are up, two of them without seals; each pair of trials measures one cut on both, in an order drawn by lot.
Printed are medians over the pairs: throughput and transfer over the hop without and with seals, and the median, with
the quartiles, of the ratio within a pair. With `--rate-mbit` the devices are in networks of their own, joined by an
emulated link of that rate (needs network namespaces).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pplib.config import configuration
from pplib.devices import assign_cores
from pplib.links import UNSHAPED, Direction, LinkProfile, LinkRecord
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.wire.connection import endpoint_of
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.measuring.schedule import Trial
from pplib.sweep.measuring.trial import run_trial
from pplib.testbed.emulation.namespaces import Namespaces, namespaces
from pplib.testbed.workers.local import LocalWorker

UNSEALED, SEALED = "../benchmarks/unsealed_worker", "socket_worker"
COLUMNS = {"throughput, img/s": "throughput_img_s", "transfer, ms": "hop0_transfer_s"}


@contextlib.contextmanager
def pipeline(experiment: Experiment, script: str, net: Namespaces | None) -> Iterator[Coordinator]:
    """Two workers of one kind, with images and weights."""
    token, devices = secrets.token_bytes(32), experiment.testbed.devices[:2]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        clients = []
        for i, (device, cores) in enumerate(zip(devices, assign_cores(devices), strict=True)):
            worker = LocalWorker(device, cores, token, script, Path(folder), net.place(i) if net else None)
            stack.callback(worker.stop)
            worker.start(60)
            clients.append(WorkerClient(device.name, endpoint_of(worker.control), token, worker.autopsy))
        coordinator = stack.enter_context(Coordinator(clients))
        coordinator.put_inputs(experiment.inputs, experiment.input_spec)
        for client in clients:
            send_weights(client, experiment.weights)
        yield coordinator


def measured(experiment: Experiment, coordinator: Coordinator, point: int) -> dict[str, float]:
    """One trial's columns."""
    link = LinkRecord(profile=UNSHAPED, engine="none", tunnel="none", before=[])
    record, error = run_trial(experiment, coordinator, Trial((point,), 0, 0), link)
    if error is not None:
        raise error
    return {name: float(record.metrics[column] or 0.0) for name, column in COLUMNS.items()}


def compare(experiment: Experiment, points: Sequence[int], pairs: int, net: Namespaces | None) -> None:
    """Measure and print."""
    print(f"| cut | sent, MB | {' | '.join(f'{name}: plain | sealed | sealed / plain' for name in COLUMNS)} |")
    print("|" + " --- |" * (2 + 3 * len(COLUMNS)))
    with pipeline(experiment, UNSEALED, net) as plain, pipeline(experiment, SEALED, net) as sealed:
        for point in points:
            seen: list[tuple[dict[str, float], dict[str, float]]] = []
            for number in range(pairs + 1):
                found = {}
                for one in random.sample((plain, sealed), 2):
                    found[one] = measured(experiment, one, point)
                if number:  # the first warms up
                    seen.append((found[plain], found[sealed]))
            cells = [f"P{point}", f"{experiment.partitioned.points[point].activation_bytes / 1e6:.2f}"]
            for name in COLUMNS:
                factor = 1e3 if name.endswith("ms") else 1.0
                for side in zip(*seen, strict=True):
                    cells.append(f"{statistics.median(one[name] for one in side) * factor:.4g}")
                low, middle, high = statistics.quantiles([after[name] / before[name] for before, after in seen], n=4)
                cells.append(f"{middle:.4f} [{low:.4f}, {high:.4f}]")
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 3, 7, 14])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--rate-mbit", type=float, default=0.0, help="of an emulated link; 0: loopback")
    options = parser.parse_args()
    values = {
        "model": options.model,
        "num_images": options.images,
        "batch_size": options.batch_size,
        "in_flight": options.in_flight,
        "partition_points": options.points,
    }
    experiment = prepare(configuration(values))
    way = Direction(rate_bit_s=options.rate_mbit * 1e6) if options.rate_mbit else Direction()
    with contextlib.ExitStack() as stack:
        profile = LinkProfile(name="bench", forward=way, backward=way)
        net = stack.enter_context(namespaces(2, profile)) if options.rate_mbit else None
        compare(experiment, options.points, options.pairs, net)


if __name__ == "__main__":
    main()
