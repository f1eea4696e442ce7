"""What trials of some parts say of others: against the formulas, and whether intervals hold that come of it."""

from __future__ import annotations

import numpy as np
import pytest

from pplib.planner.part_errors import Found, Prior, draw_errors, found_once

NOTHING = Found(np.zeros(0, np.intp), np.zeros(0), np.zeros(0))


def test_before_anything_is_known_errors_are_as_large_as_expected_and_shared_as_far_as_that():
    places, own = np.array([[0.0], [0.0], [9.0]]), np.full(3, 0.05)
    found = draw_errors(places, own, Prior(level=0.1, alike=0.2, length=0.5), NOTHING, 20_000, 0)
    assert (found[:, 0] == 0).all()
    assert found[:, 1:].std(axis=1) == pytest.approx(np.sqrt(0.01 + 0.04 + 0.0025), rel=0.15)
    apart = np.cov(found[:, 1:])
    assert apart[0, 1] == pytest.approx(0.05, rel=0.2), "what both share: the level, and what is alike"
    assert apart[0, 2] == pytest.approx(0.01, abs=0.008), "the level alone"


def test_one_that_was_measured_tells_of_the_others_as_the_formula_says():
    places, own, prior = np.zeros((2, 1)), np.array([0.03, 0.03]), Prior(level=0.1)
    seen = Found(np.array([0]), np.array([0.2]), np.array([0.04]))
    found = draw_errors(places, own, prior, seen, 20_000, 1)
    whole = 0.1**2 + 0.03**2 + 0.04**2
    assert found[:, 0] == pytest.approx([0.2 * (0.1**2 + 0.03**2) / whole, 0.2 * 0.1**2 / whole])
    left = [0.1**2 + 0.03**2 - (0.1**2 + 0.03**2) ** 2 / whole, 0.1**2 + 0.03**2 - 0.1**4 / whole]
    assert found[:, 1:].var(axis=1) == pytest.approx(left, rel=0.05)


def test_a_part_with_no_weight_is_not_moved_and_one_that_is_near_more_than_one_that_is_far():
    places, own = np.array([[0.0], [0.1], [5.0], [0.0]]), np.full(4, 1e-3)
    seen = Found(np.array([0]), np.array([0.1]), np.array([1e-3]))
    prior = Prior(level=0.05, alike=0.1, length=0.5)
    found = draw_errors(places, own, prior, seen, 10, 0, np.array([1.0, 1.0, 1.0, 0.0]))[:, 0]
    assert found[0] == pytest.approx(0.1, rel=0.01)
    assert found[0] > found[1] > found[2] > 0
    assert found[3] == 0


def test_a_part_that_several_cuts_have_is_found_once():
    found = found_once(np.array([3, 1, 3]), np.array([0.1, 0.5, 0.4]), np.array([0.1, 0.2, 0.2]))
    assert found.parts.tolist() == [1, 3]
    assert found.errors.tolist() == pytest.approx([0.5, (0.1 * 4 + 0.4) / 5])
    assert found.noise_sd.tolist() == pytest.approx([0.2, 1 / np.sqrt(125)])


def test_intervals_hold_for_worlds_like_those_expected():
    """95 % of them, for parts that were measured and for those that were not."""
    draw, places, own = np.random.default_rng(5), np.linspace(0, 1, 12)[:, None], np.full(12, 0.04)
    prior, inside = Prior(level=0.15, alike=0.06, length=0.3), []
    truth = draw_errors(places, own, prior, NOTHING, 200, 7)[:, 1:]
    for world in range(200):
        seen = Found(np.array([2, 9]), truth[[2, 9], world] + 0.03 * draw.standard_normal(2), np.full(2, 0.03))
        low, high = np.quantile(draw_errors(places, own, prior, seen, 400, world)[:, 1:], [0.025, 0.975], axis=1)
        inside.append((low <= truth[:, world]) & (truth[:, world] <= high))
    assert 0.92 < np.mean(inside) < 0.97
    assert 0.89 < np.mean(inside, axis=0)[[2, 9]].mean() < 0.99
