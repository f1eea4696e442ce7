"""Differences between backends: what is found of a known one, and the words for it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import simulated
from pplib.analysis.estimated.differences import paired_differences
from pplib.errors import FrameError
from pplib.view.sections.findings import pairs_section
from pplib.view.words.differences import difference_lines

COLUMNS = ["latency_s", "throughput_img_s", "hop0_transfer_s"]


@pytest.fixture
def slower_rpc():
    """A host that changes by 10 % from trial to trial; over rpc latency is 6 % more, and a hop takes 1 ms, not 0.5."""
    summary, _ = simulated(np.random.default_rng(8), "host", repeats=4)
    rpc = (summary["backend"] == "rpc").to_numpy()
    noise = np.exp(np.random.default_rng(9).normal(size=len(summary)) * 0.05)
    return summary.assign(
        latency_s=summary["latency_s"] * np.where(rpc, 1.06, 1.0),
        hop0_transfer_s=np.where(rpc, 0.0010, 0.0005) * noise,
    )


def test_a_difference_between_backends_is_found_with_its_sign_and_its_interval_holds_it(slower_rpc):
    table = paired_differences(slower_rpc, COLUMNS).set_index("column")
    assert table["first"].tolist() == ["rpc"] * 3 and table["second"].tolist() == ["socket"] * 3
    assert table["in_flight"].tolist() == [2] * 3 and table["cuts"].tolist() == [20] * 3
    latency, images, hop = (table.loc[name] for name in COLUMNS)
    true = 1.06 * 0.1042 / 0.104
    assert 1 < latency["ratio_low"] < true < latency["ratio_high"] and latency["ratio"] == pytest.approx(
        true, abs=0.025
    )
    assert images["ratio_low"] < 1 < images["ratio_high"]
    assert 0.0004 < hop["difference_low"] < 0.0005 < hop["difference_high"] < 0.0006


def test_the_pairs_section_says_it_in_words(slower_rpc):
    (line,) = difference_lines(paired_differences(slower_rpc, COLUMNS), 0.02)
    assert line.startswith("In flight 2, rpc against socket, 20 cuts that both have: latency ")
    assert ("% more (" in line and "throughput equal within" in line) or "throughput not told apart" in line
    assert "hop 0 takes 0.5" in line and "ms more (0.4" in line
    assert line in pairs_section(slower_rpc, slower_rpc, 0.02).text
    (line,) = difference_lines(paired_differences(slower_rpc, COLUMNS), 0.3)
    assert "latency equal within" in line and "throughput equal within" in line


def test_without_repeats_a_difference_is_told_without_an_interval(slower_rpc):
    (line,) = difference_lines(paired_differences(slower_rpc[slower_rpc["repeat"] == 0], COLUMNS), 0.02)
    assert "ms more (not repeated)" in line


def test_configurations_that_differ_in_more_or_share_no_cut_are_not_compared(slower_rpc):
    others = slower_rpc.assign(in_flight=slower_rpc["in_flight"].where(slower_rpc["backend"] == "socket", 3))
    assert paired_differences(others, COLUMNS).empty
    depths = paired_differences(slower_rpc, COLUMNS, key="in_flight")
    assert set(zip(depths["first"], depths["second"], strict=True)) == {(1, 2)}
    apart = slower_rpc[(slower_rpc["backend"] == "socket") == (slower_rpc["partition_point"] <= 9)]
    assert difference_lines(paired_differences(apart, COLUMNS), 0.02) == []
    with pytest.raises(FrameError, match=r"key: expected one of .*backend.*, got 'colour'"):
        paired_differences(slower_rpc, COLUMNS, key="colour")
