"""The plans that no other plan beats: over all cuts, device orders and choices of devices."""

from __future__ import annotations

import numpy as np

from pplib.errors import FrameError, PartitionError
from pplib.planner.search.labels import Counter, cheapest
from pplib.planner.search.plan_costs import Plan, PlanCosts, Problem
from pplib.planner.search.relaxation import Bounds, Ints, visits

EXACT = 1e-9  # a plan that is better by so small a share is not told from one that is not: sums are rounded

# How the search goes changes how long it takes, not what it finds. Tried on problems of 100 units and 16 devices.
FIRST_WIDTH = 200  # labels of a number of stages that live at first: a search for which that is enough takes 1 ms
FIRST_STATES, MOST_STATES = 64, 4096  # of the bounds, which take 3 ms, and 0.5 s
FIRST_SLACK, LAST_SLACK = 0.008, 0.03  # the share that the next plan may take more, at first, and before new bounds
RENEWALS = 3  # of the bounds for one plan; then labels do the rest


def pareto_plans(costs: PlanCosts, in_flight: float, first: int | None = None, indifference: float = 0.0) -> list[Plan]:
    """The Pareto front of latency and throughput over all plans: which devices, in which order, and where to cut.

    A plan uses each device once at most. Its latency is the sum of its stages and hops: that of a microbatch that waits
    for nothing, as with one in flight. Its cycle is the longest of: what a stage, a hop or the way back is busy; and
    latency and way back, over `in_flight`. Where there is room for all that is in flight, and times do not vary, that
    is exact (see `pipeline_model.pass_through`). What waits before the busiest part then adds to a measured latency;
    `pipeline_model.predict` says how much of the plans found.

    Exact, up to rounding (`EXACT`): with `indifference` 0 no plan is missing that takes less than each plan of the
    front in latency or cycle, and where several are equal in both, one is there. Otherwise, for every plan at all the
    front has one with no more latency, and no more than 1 / (1 - indifference) times the cycle.

    The problem is NP-hard where devices differ (Benoit, Rehn-Sonigo, Robert, "Multi-criteria scheduling of pipeline
    workflows", 2007): time grows with the number of unlike devices that it takes to keep the cycle short, so
    with `in_flight`. `benchmarks/planner.py` says how long it takes.

    Other objectives: a sum over the parts, as energy, or a largest one, as memory, would need labels that keep to
    several costs each, and is not done; what exceeds a device's memory is infinite in `costs`.

    Args:
        costs: of all that plans are made of.
        in_flight: microbatches admitted whose result is not back yet; infinite for as many as it takes.
        first: the device that has the input; it is the first one, perhaps with no unit. None: any may be first.
        indifference: so small a share of a cycle does not matter.

    Returns:
        By increasing latency, with ever shorter cycles.

    Raises:
        FrameError: arguments that make no sense, or more than 62 unlike devices.
        PartitionError: there is no plan.

    Source: the epsilon-constraint method: Haimes, Lasdon, Wismer, IEEE Transactions on Systems, Man, and Cybernetics 1,
    1971; within it see `labels` and `relaxation`.
    """
    if not 0 <= indifference < 1:
        raise FrameError(f"indifference: expected a share, 0 or more and below 1, got {indifference}")
    search = _Search(Problem(costs, first, in_flight))
    front, below_s = list[Plan](), np.inf
    while (plan := search.best(below_s)) is not None:
        if front and front[-1].latency_s >= plan.latency_s:
            front.pop()
        front.append(plan)
        below_s = plan.cycle_s * (1 - indifference)
    if not front:
        raise PartitionError(
            "no plan: expected devices whose stages take all units, and hops between them, in finite time, got none: "
            "a device that holds more units, or a link that is missing"
        )
    return front


class _Search:
    """Finds one plan after the other, and keeps what helps with the next: plans, bounds, prices of devices."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._counter = problem, Counter(problem.parts.counts)
        self._known = list[Plan]()
        self._tracked, self._prices, self._share = list[int](), np.zeros(len(problem.parts.counts)), 1.0
        self._states, self._latest_s = FIRST_STATES, 0.0
        self._bounds = Bounds(problem.parts, np.inf, self._prices, self._tracked)

    def best(self, below_s: float) -> Plan | None:
        """The plan with the least latency of those with a shorter cycle."""
        most_s = self._problem.latest_s(below_s, EXACT)
        found, limit_s = self._best_known(below_s, float(most_s.max()))
        slack, width, renewals = FIRST_SLACK, max(FIRST_WIDTH, self._bounds.num_states // 2), 0
        self._states = max(self._states // 2, FIRST_STATES)
        while self._bounds.least < limit_s * (1 - EXACT):
            # Below what is little more than the last plan took little lives; if there is nothing, a bit more may.
            guess_s = max(self._latest_s, self._bounds.least) * (1 + slack) if slack < 1 else np.inf
            guess_s = min(guess_s, limit_s)
            walk, complete = cheapest(self._bounds, self._counter, below_s, guess_s * (1 - EXACT), most_s, width)
            if walk is not None:
                found = self._problem.plan(walk)
                self._known.append(found)
                limit_s = found.latency_s
            if complete and guess_s >= limit_s:
                break
            if complete and (slack < LAST_SLACK or renewals == RENEWALS):
                slack *= 2
            elif not complete and (width < 2 * self._bounds.num_states or renewals == RENEWALS):
                width *= 4
            else:
                renewals += 1
                self._renew_bounds(below_s, limit_s)
                found, limit_s = self._best_known(below_s, limit_s)
        if found is not None:
            self._latest_s = found.latency_s
        return found

    def _best_known(self, below_s: float, limit_s: float) -> tuple[Plan | None, float]:
        """Of the plans that were found so far, and what it takes; else the limit."""
        found = min(
            (plan for plan in self._known if plan.cycle_s < below_s), key=lambda plan: plan.latency_s, default=None
        )
        return found, limit_s if found is None else found.latency_s

    def _renew_bounds(self, below_s: float, limit_s: float) -> None:
        """Bounds for this cycle: those there were, or others with more kinds tracked or other prices, if higher.

        A price rises with the use of a kind beyond what there is, by a share of what is missing to the limit, or to 5 %
        more: Polyak's step.
        """
        parts = self._problem.parts
        bounds = Bounds(parts, below_s, self._prices, self._tracked)
        if bounds.least < limit_s:
            surplus = self._surplus(bounds)
            tracked, states = list(self._tracked), bounds.num_states
            for kind in np.argsort(-surplus, kind="stable").tolist():
                if surplus[kind] > 0 and states * (parts.counts[kind] + 1) <= self._states:
                    tracked.append(kind)
                    states *= int(parts.counts[kind]) + 1
            prices = self._prices.copy()
            prices[tracked], surplus[tracked] = 0.0, 0
            surplus[(prices <= 0) & (surplus < 0)] = 0
            missing_s = min(limit_s, bounds.least + 0.05 * abs(bounds.least)) - bounds.least
            if surplus.any():
                prices = np.maximum(0.0, prices + self._share * missing_s / (surplus @ surplus) * surplus)
            other = Bounds(parts, below_s, prices, tracked)
            higher = other.least >= bounds.least
            self._share = min(1.0, self._share * 1.3) if higher else self._share * 0.7
            if higher or len(tracked) > len(self._tracked):
                self._prices, self._tracked = prices, tracked
            if higher:
                bounds = other
                if np.isfinite(bounds.least):
                    self._surplus(bounds)
        self._states = min(2 * self._states, MOST_STATES)
        self._bounds = bounds

    def _surplus(self, bounds: Bounds) -> Ints:
        """How many devices more than there are of each kind the walk uses that the bounds are of; a plan is kept."""
        walk = bounds.walk()
        surplus = visits(walk, len(bounds.prices)) - self._problem.parts.counts
        if (surplus <= 0).all():
            self._known.append(self._problem.plan(walk))
        return surplus
