"""`partition_points: auto` and `plan`: what is chosen, kept, and chosen next; devices are profiles here."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pplib.config import configuration
from pplib.errors import ConfigError, OutputError, PartitionError
from pplib.planner.prediction import predict_cuts
from pplib.planner.profiles.stage_times import StageTimes
from pplib.records import TrialRecord, read_record, trial_path, write_record
from pplib.sweep.measuring.schedule import failed_before, planned_round
from pplib.sweep.planning.choosing import FIRST_ROUND, PER_ROUND, choose
from pplib.sweep.points import chosen_before
from pplib.sweep.results import PREDICTIONS, read_predictions, summary_frame, write_predictions
from tests.planner.test_prediction import CUTS, pipeline
from tests.planner.test_stage_times import COUNT, SIZES, profile, truth_s


@pytest.fixture
def config(tiny):
    return configuration({**tiny, "partition_points": "plan", "in_flight": 1, "repeats": 3})


def measure(config, point, repeat=0, slower=1.3):
    """A trial of a cut on devices that are slower than they were when they were profiled."""
    parts = {
        "stage0_compute_s": truth_s(0, point) * slower,
        "hop0_transfer_s": 0.001 + 1e-9 * SIZES[point],
        "stage1_compute_s": truth_s(point, COUNT) * slower,
        "return_transfer_s": 0.002,
    }
    latency_s = sum(parts.values()) - 0.002
    record = TrialRecord(
        configuration=config.as_dict(),
        partition_points=[point],
        partition_name="x",
        repeat=repeat,
        order=repeat,
        status="ok",
        started_at=f"2026-01-01T00:{point:02d}:{repeat:02d}.000Z",
        duration_s=1.0,
        warmup=3,
        cooldown=0,
        metrics={
            **parts,
            "latency_s": latency_s,
            "latency_mean_s": latency_s,
            "response_s": latency_s + 0.002,
            "throughput_img_s": 8 / (latency_s + 0.002),
        },
        devices=[{"name": name, "cpu": "x", "torch_device": "cpu", "threads": 1, "slowdown": 1.0} for name in "ab"],
    )
    write_record(trial_path(config.folder, (point,), repeat), record)


def test_a_plan_adds_cuts_until_nothing_unmeasured_may_matter(config):
    first = choose(config, pipeline())
    assert 1 <= len(first) <= FIRST_ROUND
    assert choose(config, pipeline()) != [], "nothing was measured: what was chosen stays"
    assert set(chosen_before(config)) >= set(first)
    for _ in range(10):
        chosen = chosen_before(config)
        for (point,) in chosen:
            for repeat in range(3):
                measure(config, point, repeat)
        more = choose(config, pipeline())
        assert more[: len(chosen)] == chosen
        assert len(more) - len(chosen) <= PER_ROUND
        if more == chosen:
            break
    best = min(range(COUNT + 1), key=lambda p: truth_s(0, p) + truth_s(p, COUNT) + 1e-9 * SIZES[p])
    assert (best,) in chosen
    assert len(chosen) < COUNT, "not all"
    table = read_predictions(config.folder)
    left = table[table["plan_round"].isna()]
    assert (left["front_chance"] <= 0.05).all()


def test_what_was_predicted_of_a_cut_before_it_was_measured_stays_and_the_others_learn_from_it(config):
    (one, *_) = choose(config, pipeline())
    before = read_predictions(config.folder).set_index("partition_label")
    for repeat in range(3):
        measure(config, one[0], repeat)
    choose(config, pipeline(), may_add=False)
    after = read_predictions(config.folder).set_index("partition_label")
    measured = after["plan_round"] == 1
    same = before.loc[measured, "predicted_latency_s"]
    assert after.loc[measured, "predicted_latency_s"].tolist() == pytest.approx(same.tolist())
    others = after.index[~measured]
    ratio = after.loc[others, "predicted_latency_s"] / before.loc[others, "predicted_latency_s"]
    assert ratio.median() > 1.15, "the devices are 1.3 times as slow"
    assert (after["plan_round"].max(), measured.sum()) == (1, len(chosen_before(config)))
    summary = summary_frame(config.folder)
    assert summary["predicted_latency_s"].tolist() == pytest.approx([same.loc[f"P{one[0]}"]] * 3)
    assert set(summary["predicted_cuts"]) == {len(CUTS)}
    assert set(summary["plan_round"]) == {1}


def test_auto_is_one_cut_the_best_in_throughput_and_stays(tiny):
    config = configuration({**tiny, "partition_points": "auto", "in_flight": 4})
    (chosen,) = choose(config, pipeline(in_flight=4))
    slowest = [max(truth_s(0, p), truth_s(p, COUNT)) for p in range(COUNT + 1)]
    assert slowest[chosen[0]] == min(slowest)
    measure(config, chosen[0])
    slow_second = pipeline(in_flight=4)
    assert choose(config, slow_second) == [chosen] == chosen_before(config)
    quick = configuration({**tiny, "partition_points": "auto", "name": "quick", "objectives": ["response_s"]})
    (other,) = choose(quick, pipeline())
    assert other[0] in (0, COUNT), "one microbatch alone is through sooner without a hop"


def test_a_plan_for_energy_leaves_the_work_to_the_device_that_takes_less(tiny):
    wanted = {"partition_points": "auto", "in_flight": 1, "objectives": ["energy"]}
    config = configuration({**tiny, **wanted})
    stages = [StageTimes(msgspec.structs.replace(profile(), idle_w=1.0, busy_w=busy_w)) for busy_w in (20.0, 3.0)]
    assert choose(config, replace(pipeline(), stages=stages)) == [(0,)]
    other = configuration({**tiny, **wanted, "name": "other"})
    assert choose(other, replace(pipeline(), stages=stages[::-1])) == [(COUNT,)]


def test_cuts_whose_weights_do_not_fit_a_device_are_not_looked_at(config, tiny):
    room = 8 * COUNT // 4 - 1  # of units that have 8 bytes each
    stages = [StageTimes(msgspec.structs.replace(profile(), room_bytes=one)) for one in (room, None)]
    small = replace(pipeline(), stages=stages)
    choose(config, small)
    labels = read_predictions(config.folder)["partition_label"].tolist()
    assert labels == [f"P{point}" for point in range(COUNT // 4)]
    with pytest.raises(PartitionError, match=r"no cut fits: the memory of \w+, \w+ has no room"):
        choose(
            configuration({**tiny, "partition_points": "plan", "name": "none"}), replace(small, stages=stages[:1] * 2)
        )


def test_a_folder_without_predictions_goes_on_with_what_it_measured(config):
    measure(config, 3)
    assert chosen_before(config) == [(3,)]
    assert (3,) in choose(config, pipeline())


def test_what_cannot_be_planned_or_read_is_told(config, tiny):
    with pytest.raises(ConfigError, match="objectives: expected of a plan what is predicted, latency_s"):
        configuration({**tiny, "partition_points": "plan", "objectives": ["latency", "hop0_transfer_s"]})
    frugal = configuration({**tiny, "partition_points": "plan", "name": "frugal", "objectives": ["latency", "energy"]})
    with pytest.raises(ConfigError, match=r"energy_per_image_j cannot be predicted: the power of \w+, \w+ is"):
        choose(frugal, pipeline())
    choose(config, pipeline())
    path = config.folder / PREDICTIONS
    write_predictions(config.folder, read_predictions(config.folder).drop(columns="plan_round"))
    with pytest.raises(OutputError, match="no predictions: expected the column plan_round"):
        chosen_before(config)
    path.write_text("")
    with pytest.raises(OutputError, match=r"predictions\.csv"):
        chosen_before(config)
    assert path.read_text() == ""


def test_predictions_are_the_same_for_the_same_trials(config):
    choose(config, pipeline())
    first = read_predictions(config.folder)
    (config.folder / PREDICTIONS).unlink()
    choose(config, pipeline())
    again = read_predictions(config.folder)
    assert np.allclose(first["predicted_latency_s_high"], again["predicted_latency_s_high"])
    assert first["partition_label"].tolist() == again["partition_label"].tolist()


def test_while_a_plan_grows_each_cut_gets_a_trial_and_then_all_it_lacks(config):
    for repeat in range(2):
        measure(config, 3, repeat)
    growing = planned_round(config, [(3,), (5,)], grows=True)
    assert {(one.points, one.repeat) for one in growing} == {((3,), 2), ((5,), 0)}
    assert sorted(one.order for one in growing) == [2, 3]
    whole = planned_round(config, [(3,), (5,)], grows=False)
    assert {(one.points, one.repeat) for one in whole} == {((3,), 2), ((5,), 0), ((5,), 1), ((5,), 2)}
    assert config.repeats == 3
    assert failed_before(config, [(3,), (5,)]) == []
    path = trial_path(config.folder, (3,), 1)
    record = read_record(path)
    record.status = "failed"
    write_record(path, record)
    assert [(one.points, one.repeat) for one in failed_before(config, [(3,), (5,)])] == [((3,), 1)]


def test_predictions_of_the_command_are_no_plan(config):
    table = predict_cuts(pipeline(), CUTS).assign(plan_round=np.nan)
    write_predictions(config.folder, table)
    assert chosen_before(config) == []
    chosen = choose(config, pipeline())
    assert set(chosen_before(config)) == set(chosen)
    measure(config, chosen[0][0])
    choose(config, pipeline(), may_add=False)
    assert read_predictions(config.folder)["front_chance"].notna().any()
