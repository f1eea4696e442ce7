"""What `tunnel: ssh` costs between the devices of a file, by the very measurement that every trial's link gets.

    python benchmarks/tunnel.py params/devices/pi-pi.yaml [--repeats 5]

Workers are started once for each way, on idle devices. Printed are medians over `--repeats` measurements of the
first hop, with the smallest and the largest: round trips of a 64-byte message between two workers, and bytes of
payload per second at the receiving one; and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from pplib.devices import Testbed, load_testbed
from pplib.links import UNSHAPED, HopMeasurement
from pplib.pipeline.coordinator.link_measurement import measure_link
from pplib.testbed.session import open_pipeline

QUANTITIES: dict[str, Callable[[HopMeasurement], float]] = {
    "round trip, ms": lambda hop: hop.rtt_s * 1e3,
    "forward, Mbit/s": lambda hop: hop.forward_bit_s / 1e6,
    "backward, Mbit/s": lambda hop: hop.backward_bit_s / 1e6,
}


def measured(testbed: Testbed, tunnel: Literal["none", "ssh"], repeats: int) -> list[HopMeasurement]:
    """The first hop, `repeats` times."""
    changed = msgspec.structs.replace(testbed, tunnel=tunnel)
    with open_pipeline(changed, 2, ["socket"]) as (coordinator, _):
        return [measure_link(coordinator, UNSHAPED)[0] for _ in range(repeats)]


def shown(values: Sequence[float]) -> str:
    """Median [smallest, largest]."""
    return f"{statistics.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


def compare(testbed: Testbed, repeats: int) -> None:
    """Measure both ways and print."""
    plain, ssh = measured(testbed, "none", repeats), measured(testbed, "ssh", repeats)
    print(f"{'':<18} {'plain':<28} {'through SSH':<28} SSH / plain")
    for name, of in QUANTITIES.items():
        one, other = [of(hop) for hop in plain], [of(hop) for hop in ssh]
        print(f"{name:<18} {shown(one):<28} {shown(other):<28} {statistics.median(other) / statistics.median(one):.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", type=Path, help="a device file")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    compare(load_testbed(options.devices), options.repeats)


if __name__ == "__main__":
    main()
