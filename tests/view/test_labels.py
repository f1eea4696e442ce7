"""Names of points do not overlap."""

from __future__ import annotations

from itertools import combinations

import pytest

from pplib.view.layout.labels import axis_over, place_labels


def test_names_of_points_in_a_crowd_do_not_overlap():
    points = [(100 + 2.0 * i, 70 - 1.5 * i) for i in range(20)]
    x, y = axis_over([p[0] for p in points], 400), axis_over([p[1] for p in points], 280)
    placed = place_labels([f"P{i}" for i in range(20)], points, points, x, y)
    boxes = [(x.to_pixels(a), y.to_pixels(b)) for a, b in placed]
    for (a, b), (c, d) in combinations(boxes, 2):
        assert abs(a - c) >= 12 or abs(b - d) >= 11
    for (a, b), (c, d) in zip(placed, points, strict=True):
        assert abs(x.to_pixels(a) - x.to_pixels(c)) < 70
        assert abs(y.to_pixels(b) - y.to_pixels(d)) < 70


@pytest.mark.parametrize("values", [[1.0, 3.0], [1.0, 100.0], [5.0], [0.0], [], [-1.0, 2.0]])
def test_an_axis_holds_its_values_and_inverts_itself(values):
    axis = axis_over(values, 300)
    assert axis.low < axis.high
    for value in values:
        assert 0 < axis.to_pixels(value) < 300
        assert axis.to_data(axis.to_pixels(value)) == pytest.approx(value)
