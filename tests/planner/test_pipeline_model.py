"""The pipeline model: against recorded timelines, against cases worked out by hand, and what holds for all times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplib.analysis.trials.timeline import Parts, measure
from pplib.errors import FrameError
from pplib.links import Direction, LinkProfile
from pplib.planner.pipeline_model import PipelineTimes, part_names, pass_through, predict
from pplib.records import StageTimeline

# Six trials of MobileNetV2 in two processes, and four runs of the stage loop in threads, with times drawn for each
# microbatch; in microseconds' resolution, without what a model has no use for.
RECORDED = json.loads((Path(__file__).parent / "timelines.json").read_text())


def each(*rows):
    """What a part takes for each microbatch, for one candidate."""
    return np.maximum(np.array(rows), 0.0)[None]


def typical(*rows):
    """The median over microbatches, which every one of them then has."""
    return np.maximum(np.median(np.array(rows), axis=1), 0.0)[None]


def stages_of(case):
    """The timelines of a recorded pipeline."""
    return [
        StageTimeline(stage_index=i, device="", copy_s=[0.0] * len(one["ready_s"]), **one)
        for i, one in enumerate(case["timelines"])
    ]


def times_of(case):
    """The times of a recorded pipeline: parts as they were for each microbatch, hand-overs as they usually were."""
    stages = stages_of(case)
    delay_s, in_flight = case["delay_s"], case["in_flight"]
    parts = Parts(stages, propagation_s=delay_s)
    names = ("ready_s", "received_s", "compute_start_s", "compute_end_s", "send_start_s")
    moment = {name: np.array([getattr(one, name) for one in stages]) for name in names}
    end, sent, returned = moment["compute_end_s"], moment["send_start_s"], np.array(case["returned_s"])
    encode = np.array([one.encode_s or np.zeros_like(returned) for one in stages])
    decode = np.array([one.decode_s or np.zeros_like(returned) for one in stages])
    before = np.pad(end[:, :-1], ((0, 0), (1, 0)))
    credit = np.pad(returned, (in_flight, 0))[: len(returned)]
    start = moment["compute_start_s"] - np.maximum(moment["received_s"] + decode, before)
    earlier = np.pad(sent[:, :-1], ((0, 0), (1, 0)))
    carried = np.pad(returned[:-1], (1, 0)) - delay_s
    back = returned - np.minimum(np.maximum(sent[-1], carried), returned)
    waits_for_room = np.zeros_like(sent)
    if case["rooms"]:
        waits_for_room[:-1] = moment["ready_s"][1:]
    hops = len(stages) - 1
    return PipelineTimes(
        compute_s=each(*parts.compute),
        busy_s=each(*parts.busy),
        propagation_s=np.full((1, hops), delay_s),
        encode_s=each(*parts.encode),
        decode_s=each(*parts.decode),
        return_busy_s=each(back - delay_s),
        return_propagation_s=np.full((1, 1), delay_s),
        admit_s=typical((moment["received_s"][0] - np.maximum(before[0], credit))[1:]),
        start_s=typical(*start),
        send_s=typical(*(sent - encode - np.maximum(np.maximum(end, earlier), waits_for_room - encode))),
        in_flight=in_flight,
        batch_size=case["batch_size"],
        rooms=tuple(case["rooms"]) if case["rooms"] else None,
    )


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['what']}, {case['in_flight']} in flight")
def test_the_parts_of_a_recorded_pipeline_make_its_latency_response_and_throughput(case):
    begin, end = case["warmup"], len(case["returned_s"]) - case["cooldown"]
    predicted = predict(times_of(case), end - begin, begin, case["cooldown"])
    way = Direction(delay_s=case["delay_s"])
    measured = measure(
        stages_of(case),
        case["returned_s"],
        slice(begin, end),
        case["batch_size"],
        LinkProfile(name="x", forward=way, backward=way),
        in_flight=case["in_flight"],
    )
    assert measured["latency_s"] == pytest.approx(case["metrics"]["latency_s"], rel=1e-4), "as recorded"
    assert predicted.latency_s[0] == pytest.approx(measured["latency_s"], rel=0.01)
    assert predicted.response_s[0] == pytest.approx(measured["response_s"], rel=0.01)
    assert predicted.throughput_img_s[0] == pytest.approx(measured["throughput_img_s"], rel=0.01)
    assert predicted.bound_img_s[0] == pytest.approx(measured["bound_img_s"], rel=1e-3)
    assert part_names(len(case["timelines"]))[predicted.bottleneck[0]] == measured["bottleneck"]


def rows(*values):
    return np.array([values], dtype=float)


def pipeline(compute, busy, in_flight, batch_size=1, **more):
    return PipelineTimes(
        compute_s=rows(*compute), busy_s=rows(*busy), in_flight=in_flight, batch_size=batch_size, **more
    )


def test_two_stages_with_two_in_flight_by_hand():
    """Compute 4 and 2, the hop 3 and 1 of delay, the way back 1 and 1: alone, a microbatch is back after 12."""
    one = pipeline((4, 2), (3,), 2, propagation_s=rows(1), return_busy_s=rows(1), return_propagation_s=rows(1))
    passage = pass_through(one, 4)
    assert passage.admitted_s.tolist() == [[0, 4, 12, 16]], "a credit comes back after 12"
    assert passage.done_s.tolist() == [[10, 14, 22, 26]]
    assert passage.returned_s.tolist() == [[12, 16, 24, 28]]
    predicted = predict(one, 33)
    assert (predicted.latency_s[0], predicted.response_s[0]) == (10, 12)
    assert predicted.throughput_img_s[0] == pytest.approx(2 / 12)
    assert (predicted.bound_img_s[0], predicted.bottleneck[0]) == (1 / 4, 0)
    fuller = predict(replace(one, in_flight=4, batch_size=8), 33)
    assert fuller.throughput_img_s[0] == fuller.bound_img_s[0] == 8 / 4
    assert fuller.latency_s[0] == 10, "it waits at the first device, before it is admitted"


def test_what_waits_for_a_slow_last_stage_waits_within_its_latency():
    """Three in flight, and one done every 5: each is back 15 after it was admitted."""
    predicted = predict(pipeline((1, 5), (2,), 3, return_busy_s=rows(1)))
    assert (predicted.latency_s[0], predicted.response_s[0], predicted.throughput_img_s[0]) == (14, 15, 1 / 5)


def test_encoding_and_decoding_overlap_with_what_the_link_carries():
    predicted = predict(pipeline((1, 1), (4,), 4, encode_s=rows(3), decode_s=rows(2)))
    assert predicted.throughput_img_s[0] == 1 / 4
    assert predict(pipeline((1, 1), (4,), 1, encode_s=rows(3), decode_s=rows(2))).latency_s[0] == 11


def test_a_stage_with_room_for_one_gets_the_next_when_it_has_handed_on_its_output():
    """Compute 2 and 4: with room the first is done with the next meanwhile, and that waits on the second device; else
    it waits on the first one, and every one takes its transfer of 1 in between.
    """
    roomy, narrow = (predict(pipeline((2, 4), (1,), 3, rooms=(3, room))) for room in (2, 1))
    assert (roomy.throughput_img_s[0], narrow.throughput_img_s[0]) == (1 / 4, 1 / 5)
    told = predict(pipeline((2, 4), (1,), 3, rooms=(3, 1), grant_s=rows(2)))
    assert told.throughput_img_s[0] == 1 / 7


def test_candidates_do_not_touch_each_other_and_may_differ_in_everything():
    generator = np.random.default_rng(1)
    compute, busy, delay = (generator.uniform(0, 1, (5, n)) for n in (3, 2, 2))
    together = predict(PipelineTimes(compute_s=compute, busy_s=busy, propagation_s=delay, in_flight=2, batch_size=4))
    for i in range(5):
        alone = predict(
            PipelineTimes(compute_s=compute[[i]], busy_s=busy[[i]], propagation_s=delay[[i]], in_flight=2, batch_size=4)
        )
        assert [values[i] for values in together] == [values[0] for values in alone]


NAMES = {
    "compute_s": 0, "start_s": 0, "send_s": 0, "busy_s": -1, "propagation_s": -1, "encode_s": -1, "decode_s": -1,
    "return_busy_s": None, "return_propagation_s": None, "admit_s": None,
}  # fmt: skip


@st.composite
def pipelines(draw):
    """Whole numbers, so that sums are exact."""
    stages = draw(st.integers(2, 4))
    count = {name: 1 if more is None else stages + more for name, more in NAMES.items()}
    drawn = {
        name: rows(*draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))) for name, size in count.items()
    }
    drawn["compute_s"] += 1
    return PipelineTimes(**drawn, in_flight=draw(st.integers(1, 6)), batch_size=1)


def alone_s(times):
    """What a microbatch takes until it is back, and from one admission to the next, where nothing waits."""
    parts = [getattr(times, name) for name in NAMES if name != "admit_s"]
    return sum(float(part.sum()) for part in parts)


@given(pipelines())
def test_one_in_flight_takes_the_sum_of_all_parts(times):
    one = predict(replace(times, in_flight=1), 5)
    back = float((times.send_s[:, -1:] + times.return_busy_s + times.return_propagation_s)[0, 0])
    assert one.response_s[0] == alone_s(times)
    assert one.latency_s[0] == alone_s(times) - back
    assert one.throughput_img_s[0] == pytest.approx(1 / (alone_s(times) + times.admit_s[0, 0]))


@given(pipelines())
def test_in_the_long_run_throughput_is_what_the_busiest_part_or_what_is_in_flight_allows(times):
    """What is passed to a thread is passed by it, but for admission, which is by the one that computes."""
    plain = {name: np.zeros_like(getattr(times, name)) for name in ("admit_s", "start_s", "send_s")}
    times = replace(times, **plain)
    predicted = predict(times, 240, warmup=120)
    allowed = min(predicted.bound_img_s[0], times.in_flight / alone_s(times))
    assert predicted.throughput_img_s[0] == pytest.approx(allowed, rel=0.02), "whole periods do not fit"
    assert predicted.throughput_img_s[0] <= predicted.bound_img_s[0] * (1 + 1e-9)


@given(pipelines(), st.integers(1, 3))
def test_more_in_flight_never_ends_later(times, more):
    fewer = pass_through(times, 24)
    others = pass_through(replace(times, in_flight=times.in_flight + more), 24)
    assert (others.done_s <= fewer.done_s).all()
    assert (others.returned_s <= fewer.returned_s).all()


@given(pipelines(), st.sampled_from(sorted(NAMES)), st.integers(1, 5), st.data())
def test_nothing_gets_better_where_a_part_takes_longer(times, name, more, data):
    longer = getattr(times, name).copy()
    longer[0, data.draw(st.integers(0, longer.shape[1] - 1))] += more
    slower = replace(times, **{name: longer})
    assert (pass_through(slower, 24).returned_s >= pass_through(times, 24).returned_s).all()
    one, other = (predict(replace(each, in_flight=1), 8) for each in (times, slower))
    assert other.latency_s[0] >= one.latency_s[0]
    assert other.throughput_img_s[0] <= one.throughput_img_s[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"compute_s": rows(1)}, r"compute_s: expected the shape \(candidates, 2 or more stages\), got \(1, 1\)"),
        ({"busy_s": rows(1, 2)}, r"busy_s: expected the shape \(1, 1\), or \(1, 1, 35\) of microbatches, got \(1, 2\)"),
        ({"encode_s": rows(-1)}, "encode_s: expected seconds, 0 or more, got -1"),
        ({"busy_s": rows(np.inf)}, "busy_s: expected seconds"),
        ({"in_flight": 0}, "in_flight, batch_size: expected 1 or more, got 0, 1"),
        ({"rooms": (1,)}, r"rooms: expected 1 or more for each of 2 stages, got \(1,\)"),
    ],
)
def test_times_that_make_no_sense_are_named(more, message):
    with pytest.raises(FrameError, match=message):
        predict(replace(pipeline((1, 1), (1,), 1), **more))
    with pytest.raises(FrameError, match="expected 2 or more measured microbatches after 0 or more, got 1 after 3"):
        predict(pipeline((1, 1), (1,), 1), 1)
