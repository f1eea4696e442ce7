"""How long the search for plans takes: one line per problem, with its time, its plans and the last of them.

    python -m benchmarks.planner [--units 100] [--devices 16] [--seeds 3] [--limit-s 60]

Devices are drawn up to eight times as fast as each other, and each is better at some units than at others; activations
shrink towards the end of the model, and links are drawn from 100 Mbit/s, 300 Mbit/s and 1 Gbit/s. As many microbatches
are in flight as it says: the more, the more devices a plan may use. A search that takes longer than the limit is ended.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time

import numpy as np

from pplib.planner.search.fronts import pareto_plans
from pplib.planner.search.plan_costs import PlanCosts


def problem(units: int, devices: int, kinds: int, seed: int) -> PlanCosts:
    """Random costs of `kinds` kinds of devices, equally many of each."""
    generator = np.random.default_rng(seed)
    unit_s = 0.01 * generator.lognormal(0, 0.6, units) * generator.lognormal(0, 0.15, (kinds, units))
    unit_s /= np.exp(generator.uniform(0, np.log(8), (kinds, 1)))
    of = np.repeat(np.arange(kinds), devices // kinds)
    until = np.concatenate([np.zeros((kinds, 1)), unit_s.cumsum(axis=1)], axis=1)[of]
    sizes = 3.2e6 * generator.lognormal(0, 0.7, units + 1) * np.linspace(1.5, 0.2, units + 1)
    rate, delay = (generator.choice(values, (kinds, kinds)) for values in ((1e8, 3e8, 1e9), (2e-4, 1e-3)))
    rate, delay = (np.minimum(one, one.T)[np.ix_(of, of)] for one in (rate, delay))
    return PlanCosts(
        stage_s=until[:, None, :] - until[:, :, None],
        hop_busy_s=sizes / rate[:, :, None],
        hop_delay_s=np.repeat(delay[:, :, None], units + 1, axis=2),
    )


def timed(costs: PlanCosts, in_flight: float, indifference: float, answer: multiprocessing.SimpleQueue[str]) -> None:
    """Says how long one search takes, and what it finds."""
    began = time.perf_counter()
    front = pareto_plans(costs, in_flight, indifference=indifference)
    taken_s, last = time.perf_counter() - began, front[-1]
    answer.put(
        f"{taken_s:7.2f} s {len(front):4d} plans, latency {front[0].latency_s:.3f} to {last.latency_s:.3f} s, "
        f"cycle {front[0].cycle_s:.4f} to {last.cycle_s:.4f} s on {len(last.devices)} devices"
    )


def main() -> None:
    """Print a line for each problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=60.0)
    asked = parser.parse_args()
    print(f"{asked.units} units, {asked.devices} devices")
    for kinds, seeds in ((asked.devices, asked.seeds), (4, 1), (1, 1)):
        for seed in range(seeds):
            costs = problem(asked.units, asked.devices, kinds, seed)
            for in_flight, indifference in ((4, 0.0), (8, 0.0), (16, 0.0), (16, 0.02), (np.inf, 0.0)):
                answer: multiprocessing.SimpleQueue[str] = multiprocessing.SimpleQueue()
                process = multiprocessing.Process(target=timed, args=(costs, in_flight, indifference, answer))
                process.start()
                process.join(asked.limit_s)
                ended = not process.is_alive()
                process.kill()
                said = answer.get() if ended else f"more than {asked.limit_s:g} s"
                about = f"{kinds:2d} kinds, seed {seed}, {in_flight:3g} in flight, indifference {indifference:4g}:"
                print(about, said, flush=True)


if __name__ == "__main__":
    main()
