"""Plans over the devices of a pipeline: which of them, in which order, and where to cut, of all that can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from pplib.planner.pipeline_model import Array
from pplib.planner.pipeline_parts import HOPS, STAGES, Pipeline, carried_s
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.search.fronts import pareto_plans
from pplib.planner.search.plan_costs import Plan, PlanCosts

MOST_CUTS = 5000
"""So many cuts are looked at one by one; of more, those on exact fronts of possible worlds, and their neighbours."""
_WORLDS = 24


def device_plans(pipeline: Pipeline, first: int | None = 0) -> list[Plan]:
    """The exact front of latency and throughput over all choices of the pipeline's devices, their orders and cuts.

    Two devices that are no neighbours in the pipeline have no hop that was profiled: what a message costs between them
    is taken to be the mean of those that were. The way back is taken to be as long as that of all devices.

    Args:
        pipeline: with a device per stage; its hops are between neighbours.
        first: the device that has the input; None: any may.

    Returns:
        By increasing latency; `devices` are places in `pipeline.stages`.

    Raises:
        PartitionError: there is no plan.
    """
    return pareto_plans(_costs(pipeline, in_order=False), pipeline.in_flight, first)


def reordered(pipeline: Pipeline, plan: Plan) -> Pipeline:
    """The pipeline of a plan's devices, in its order."""
    hops = [_hop_between(pipeline, *pair) for pair in itertools.pairwise(plan.devices)]
    return replace(pipeline, stages=[pipeline.stages[i] for i in plan.devices], hops=hops)


def promising_cuts(pipeline: Pipeline, seed: int = 0) -> list[tuple[int, ...]]:
    """Cuts of a pipeline, its devices in their order, that may be on its front, where all are too many to look at.

    The exact fronts of what is expected, and of worlds in which devices and hops are slower or faster than that, as far
    as is usual; and the cuts beside those.
    """
    rng, last = np.random.default_rng(seed), len(pipeline.activation_bytes) - 1
    count = len(pipeline.stages)
    found = dict.fromkeys([(0,) * (count - 1), (last,) * (count - 1)])
    for world in range(_WORLDS + 1):
        of_stages, of_hops = (
            np.exp((world > 0) * prior.level * rng.standard_normal(size))
            for prior, size in ((STAGES, count), (HOPS, count - 1))
        )
        for plan in pareto_plans(_costs(pipeline, True, of_stages, of_hops), pipeline.in_flight, 0):
            for step in itertools.product((0, -1, 1), repeat=count - 1):
                points = tuple(point + more for point, more in zip(plan.points, step, strict=True))
                if all(a < b for a, b in itertools.pairwise((0, *points, last))):
                    found[points] = None
    return list(found)


def _costs(
    pipeline: Pipeline, in_order: bool, of_stages: Array | None = None, of_hops: Array | None = None
) -> PlanCosts:
    """What plans take; with `in_order` each device sends to the next alone, and the last one alone has a way back."""
    count, num_points = len(pipeline.stages), len(pipeline.activation_bytes)
    stage_s = np.stack([stage.table()[0] for stage in pipeline.stages])
    stage_s = np.where(np.isnan(stage_s), np.inf, stage_s) * (1 if of_stages is None else of_stages[:, None, None])
    busy, delay = (np.full((count, count, num_points), np.inf) for _ in range(2))
    back = np.full(count, np.inf)
    result = np.asarray(pipeline.activation_bytes[-1:], dtype=np.float64)
    for here, there in itertools.permutations(range(count), 2):
        if in_order and there != here + 1:
            continue
        hop, num_bytes = _hop_between(pipeline, here, there), np.asarray(pipeline.activation_bytes, dtype=np.float64)
        carried = carried_s(hop.transfer, hop.crossing_bytes(num_bytes), pipeline.link.forward)
        coded = [np.zeros(num_points) if line is None else line.at(num_bytes) for line in (hop.encode, hop.decode)]
        parts = np.stack([carried * (1 if of_hops is None else of_hops[min(here, there)]), *coded])
        busy[here, there] = parts.max(axis=0)
        delay[here, there] = parts.sum(axis=0) - busy[here, there] + pipeline.link.forward.delay_s
        back[there] = carried_s(hop.back, result, pipeline.link.backward)[0]
    if in_order:
        back[:-1] = np.inf
    return PlanCosts(
        stage_s=stage_s,
        hop_busy_s=busy,
        hop_delay_s=delay,
        back_busy_s=back,
        back_delay_s=np.full(count, (count - 1) * pipeline.link.backward.delay_s),
    )


def _hop_between(pipeline: Pipeline, here: int, there: int) -> HopProfile:
    """The profile of a hop: that of neighbours in their order, or one that is the mean of all there are."""
    if there == here + 1:
        return pipeline.hops[here]
    hops = pipeline.hops
    return msgspec.structs.replace(
        hops[0],
        transfer=_mean([hop.transfer for hop in hops]),
        encode=hops[0].encode and _mean([hop.encode for hop in hops if hop.encode]),
        decode=hops[0].decode and _mean([hop.decode for hop in hops if hop.decode]),
        back=_mean([hop.back for hop in hops]),
    )


def _mean(lines: Sequence[Line]) -> Line:
    fixed_s, per_byte_s, log_sd = np.mean([(one.fixed_s, one.per_byte_s, one.log_sd) for one in lines], axis=0).tolist()
    return Line(fixed_s=fixed_s, per_byte_s=per_byte_s, log_sd=log_sd)
