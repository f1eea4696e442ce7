"""`repeats: auto`: more trials of what is not decided, no more of what is, within what it may take."""

from __future__ import annotations

import pytest

from pplib.config import configuration
from pplib.errors import ConfigError
from pplib.records import read_record, trial_path, write_record
from pplib.sweep.measuring import run, turns
from pplib.sweep.measuring.schedule import DECIDED, begun, is_decided, missing_trials, next_round, note_decided
from pplib.sweep.measuring.turns import Measurement
from pplib.sweep.results import read_summary
from tests.sweep.test_batch import run_sweep
from tests.sweep.test_summary import write  # noqa: F401 (a fixture)

POINTS = [(2,), (4,)]


@pytest.fixture
def measured(write):  # noqa: F811
    """A configuration with two repeats of two points, whose latencies and rates are as told."""

    def _measured(latencies, rates=((40.0, 41.0), (20.0, 20.5)), **values):
        config = write(repeats="auto", **values)
        for (point,), of_latency, of_rate in zip(POINTS, latencies, rates, strict=True):
            for repeat, (latency, rate) in enumerate(zip(of_latency, of_rate, strict=True)):
                path = trial_path(config.folder, (point,), repeat)
                record = read_record(path)
                record.metrics |= {"latency_s": latency, "throughput_img_s": rate}
                write_record(path, record)
        return config

    return _measured


CLEAR, OPEN = ((0.050, 0.0501), (0.080, 0.0801)), ((0.05, 0.08), (0.06, 0.07))


def test_what_is_not_decided_is_measured_once_more(measured):
    config = measured(OPEN)
    assert missing_trials(config, POINTS) == []
    (trials,) = next_round([(config, POINTS)], minutes=0.0).values()
    assert (4,) in [trial.points for trial in trials]
    assert {trial.repeat for trial in trials} == {2}
    assert [trial.order for trial in trials] == list(range(4, 4 + len(trials)))


def test_what_is_decided_is_not(measured):
    config = measured(CLEAR)
    assert next_round([(config, POINTS)], minutes=0.0) == {config.identity: []}


def test_a_difference_that_does_not_matter_needs_no_more_repeats(measured):
    close = ((0.05, 0.053), (0.052, 0.0525)), ((40.0, 41.0), (36.0, 36.5))
    strict = measured(*close, indifference=0.0)
    assert next_round([(strict, POINTS)], minutes=0.0)[strict.identity]
    config = configuration({**strict.as_dict(), "indifference": 0.5})
    assert next_round([(config, POINTS)], minutes=0.0) == {config.identity: []}
    assert config.measured() == strict.measured(), "what is said of trials is no reason to measure them again"
    note_decided(config)
    assert is_decided(config) and not is_decided(strict)


def test_a_fixed_number_goes_on_as_before(write):  # noqa: F811
    config = write(repeats=2)
    assert next_round([(config, POINTS)], minutes=0.0) == {}
    assert is_decided(config)
    note_decided(config)
    assert not (config.folder / DECIDED).exists()


def test_no_point_gets_more_than_it_may_have(measured):
    config = measured(OPEN, max_repeats=2)
    assert next_round([(config, POINTS)], minutes=0.0) == {config.identity: []}
    config = measured(OPEN, name="soon", max_minutes=1.0)
    assert next_round([(config, POINTS)], minutes=1.5) == {}
    assert next_round([(config, POINTS)], minutes=0.5)[config.identity]


def test_limits_that_were_raised_have_it_go_on(measured):
    config = measured(OPEN, max_repeats=4)
    assert not is_decided(config)
    note_decided(config)
    assert is_decided(config)
    assert next_round([(config, POINTS)], minutes=0.0) == {}
    more = configuration({**config.as_dict(), "max_repeats": 5})
    assert not is_decided(more)
    assert next_round([(more, POINTS)], minutes=0.0)[more.identity]


def test_what_failed_of_the_further_repeats_is_done_again(measured):
    config = measured(OPEN)
    record = read_record(trial_path(config.folder, (4,), 1))
    record.repeat, record.status, record.error, record.metrics = 2, "failed", "worker lost", {}
    write_record(trial_path(config.folder, (4,), 2), record)
    assert begun(config, (4,)) == 3 and begun(config, (2,)) == 2
    assert [(one.points, one.repeat) for one in missing_trials(config, POINTS)] == [((4,), 2)]


def test_auto_is_the_one_word_beside_numbers():
    for wrong in ("all", 0, "3"):
        with pytest.raises(ConfigError, match="repeats"):
            configuration({"repeats": wrong})
    with pytest.raises(ConfigError, match="max_repeats"):
        configuration({"max_repeats": 1})
    with pytest.raises(ConfigError, match="indifference"):
        configuration({"indifference": 1.0})


@pytest.mark.timeout(600)
def test_a_sweep_repeats_where_it_matters_and_is_over_when_started_again(
    tmp_path, tiny, links, unshown, monkeypatch, capsys
):
    rounds, looks, measure = [], [], turns.measure_until_right
    monkeypatch.setattr(turns, "measure_until_right", lambda *given: [looks.append(given), measure(*given)][1])
    monkeypatch.setattr(
        run, "Measurement", lambda *given, **more: [rounds.append(given), Measurement(*given, **more)][1]
    )
    grid = {**tiny, "repeats": "auto", "max_repeats": 4, "in_flight": [1, 2]}
    assert run_sweep(tmp_path, grid) == 0
    results = tmp_path / "out" / "tiny"
    summary = read_summary(results / "summary.csv")
    repeats = summary.groupby(["in_flight", "partition_label"])["repeat"].agg(["count", "max"])
    assert repeats["count"].between(2, 4).all() and (repeats["max"] == repeats["count"] - 1).all()
    assert len(list(results.glob(f"*/{DECIDED}"))) == 2
    assert len(looks) == 1 + len(rounds) > 2, "the link is measured before the first round, and after each"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")}
    assert run_sweep(tmp_path, grid) == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")} == before
    assert capsys.readouterr().out.count("front:   ") == 4
