"""Requested against measured for emulated links, by the very measurement that every trial's link gets.

    python benchmarks/link_engine.py [--engine userspace] [--repeats 5]

Each row is a median over `--repeats` measurements, with the smallest and the largest beside it. Delay:
the requested value is set in each direction, and the measured one is half the median round trip of a
64-byte message between two workers, with the interpreter at both ends in it. Rate: bytes of payload
at the receiving worker per second, in both directions; `possible` is the rate less the headers of full
segments. Workers and link share this machine's cores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence

from pplib.devices import Device, Testbed
from pplib.links import HEADER_BYTES, SEGMENT_BYTES, Direction, HopMeasurement, LinkProfile
from pplib.pipeline.coordinator.link_measurement import measure_link
from pplib.testbed.session import open_pipeline, workers_up

PAYLOAD = SEGMENT_BYTES / (SEGMENT_BYTES + HEADER_BYTES)
DELAYS_S = (0.001, 0.010, 0.100, 0.200)
RATES_BIT_S = (5e6, 50e6, 100e6, 1000e6)


def measured(testbed: Testbed, profiles: Sequence[LinkProfile], repeats: int) -> Iterator[list[HopMeasurement]]:
    """The one hop of each profile, `repeats` times."""
    with workers_up(testbed, ["socket"], shaped=True) as session:
        print(f"engine: {session.engine}")
        print(f"{'':>10} {'possible':>10}   {'measured, median [min, max]':<28} off by")
        for profile in profiles:
            session.set_link(profile)
            with open_pipeline(testbed, 2, ["socket"], profile) as (coordinator, _):
                yield [measure_link(coordinator, profile)[0] for _ in range(repeats)]


def row(requested: float, values: Sequence[float], possible: float) -> str:
    """One line of the table: requested, possible, median [smallest, largest], and how far the median is off."""
    median = statistics.median(values)
    spread = f"{median:.2f} [{min(values):.2f}, {max(values):.2f}]"
    return f"{requested:>10g} {possible:>10.2f}   {spread:<28} {median / possible - 1:+.1%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["auto", "tc", "userspace"], default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    testbed = Testbed(devices=[Device(name="a"), Device(name="b")], link_engine=options.engine)
    delays = [Direction(delay_s=delay) for delay in DELAYS_S]
    rates = [Direction(rate_bit_s=rate) for rate in RATES_BIT_S]
    profiles = [LinkProfile(name=str(i), forward=way, backward=way) for i, way in enumerate([*delays, *rates])]
    hops = measured(testbed, profiles, options.repeats)
    for delay in DELAYS_S:
        found = next(hops)
        print(row(delay * 1e3, [hop.rtt_s / 2 * 1e3 for hop in found], delay * 1e3), " ms one way")
    for rate in RATES_BIT_S:
        found = next(hops)
        goodput = [way / 1e6 for hop in found for way in (hop.forward_bit_s, hop.backward_bit_s)]
        print(row(rate / 1e6, goodput, rate * PAYLOAD / 1e6), " Mbit/s")
    hops.close()


if __name__ == "__main__":
    main()
