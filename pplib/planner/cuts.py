"""Cuts whose parts are known but for the link: what each would do over any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pplib.links import HEADER_BYTES, SEGMENT_BYTES
from pplib.planner.pipeline_model import Array, PipelineTimes, periodic, predict

PAYLOAD = SEGMENT_BYTES / (SEGMENT_BYTES + HEADER_BYTES)
"""Of the bytes that a link carries, what TCP's payload is at most: a link's rate counts headers, too."""

_ROUNDS, _MOST = 8, 2.0  # of calibration; by how much it may change what stages take
_AT_ONCE = 10_000  # candidates of the model: what they take of memory


def carried(fixed_s: Array, copying_s: Array, payload_bytes: Array, rate_bit_s: Array | float | None) -> Array:
    """How long a message keeps a link busy: software copies while the link carries, so that the longer counts.

    Args:
        fixed_s: of each message, however large.
        copying_s: what software takes for its bytes.
        payload_bytes: what crosses; where it is not known (NaN), software decides.
        rate_bit_s: of the link, headers included; None or infinite where nothing limits it.
    """
    wire = np.nan_to_num(payload_bytes) * 8 / PAYLOAD / (math.inf if rate_bit_s is None else rate_bit_s)
    return np.asarray(fixed_s + np.maximum(copying_s, wire), dtype=np.float64)


@dataclass(frozen=True)
class Cuts:
    """Cuts whose parts are known but for the link: measured ones, see `cuts_of_trials`, or predicted ones.

    Attributes:
        labels: of each cut, such as P5.
        times: what software takes; propagation is not used.
        payload_bytes: that cross each hop, (cuts, hops).
        result_bytes: that go back, (cuts, 1); where not known (NaN), the way back takes what it took.
        fixed_s: of what a hop is busy, what it takes however large a message is, (cuts, hops) or one for all.
        return_fixed_s: the same of the way back.
        fastest_bit_s: the rate above which nothing is known: of the link that the times are of.
        factors: objective -> what the stages' times of each cut are multiplied by for it, (cuts,), see `calibrated`.
    """

    labels: Sequence[str]
    times: PipelineTimes
    payload_bytes: Array
    result_bytes: Array
    fixed_s: Array | float = 0.0
    return_fixed_s: Array | float = 0.0
    fastest_bit_s: float = math.inf
    factors: Mapping[str, Array] = field(default_factory=dict)

    def over(self, rate_bit_s: Array, delay_s: Array, objective: str = "") -> PipelineTimes:
        """The times over each of several links, both ways alike: all cuts over the first, then over the second.

        Args:
            rate_bit_s: of each link, shape (links,), infinite where nothing limits it.
            delay_s: of each, one way.
            objective: that they are for, where `factors` has it.
        """
        links, (count, hops) = len(rate_bit_s), np.shape(self.payload_bytes)

        def again(values: Array | None) -> Array | None:
            return None if values is None else np.tile(values, (links, 1))

        def busy(took_s: Array | None, fixed_s: Array | float, payload: Array) -> Array:
            took = np.zeros_like(payload) if took_s is None else np.asarray(took_s)
            fixed = np.minimum(fixed_s, took)
            found = carried(fixed, took - fixed, payload, rate_bit_s[:, None, None])
            return found.reshape(links * count, -1)

        propagation = np.repeat(delay_s, count)[:, None]
        compute = self.times.compute_s * self.factors.get(objective, np.ones(count))[:, None]
        return replace(
            self.times,
            compute_s=np.tile(compute, (links, 1)),
            busy_s=busy(self.times.busy_s, self.fixed_s, self.payload_bytes),
            return_busy_s=busy(self.times.return_busy_s, self.return_fixed_s, self.result_bytes),
            propagation_s=np.repeat(propagation, hops, axis=1),
            return_propagation_s=propagation * hops,
            encode_s=again(self.times.encode_s),
            decode_s=again(self.times.decode_s),
            admit_s=again(self.times.admit_s),
            start_s=again(self.times.start_s),
            send_s=again(self.times.send_s),
            grant_s=again(self.times.grant_s),
        )

    def performance(self, rate_bit_s: Array, delay_s: Array, objectives: Sequence[str]) -> Array:
        """What the pipeline model says of every cut over every link.

        Args:
            rate_bit_s, delay_s: see `over`.
            objectives: of `pipeline_model.Performance`.

        Returns:
            (links, cuts, objectives).
        """
        count = len(self.labels)
        found = np.empty((len(rate_bit_s), count, len(objectives)))
        step = max(1, _AT_ONCE // count)
        for i, name in enumerate(objectives):
            for first in range(0, len(rate_bit_s), step):
                some = slice(first, first + step)
                times = self.over(rate_bit_s[some], delay_s[some], name)
                told = getattr(predict(times, *periodic(times.in_flight)), name)
                found[some, :, i] = told.reshape(-1, count)
        return found


def calibrated(cuts: Cuts, known: Mapping[str, Array], rate_bit_s: float, delay_s: float) -> Cuts:
    """Cuts of which the model says what is known of them over one link, as far as their stages can make it so.

    What a trial's own parts say of a cut is noisier than an estimate from all trials, and threads take time to hand
    over, which is in no part.

    Args:
        cuts: with times of their own.
        known: objective -> what each cut is known to do over that link, (cuts,); NaN where that is not known.
        rate_bit_s, delay_s: of the link.
    """
    found = dict[str, Array]()
    for name, values in known.items():
        found[name] = np.ones(len(cuts.labels))
        for _ in range(_ROUNDS):
            told = replace(cuts, factors=found).performance(np.array([rate_bit_s]), np.array([delay_s]), [name])[
                0, :, 0
            ]
            ratio = values / told if name.endswith("_s") and not name.endswith("_img_s") else told / values
            found[name] = np.clip(found[name] * np.nan_to_num(ratio, nan=1.0), 1 / _MOST, _MOST)
    return replace(cuts, factors=found)
