"""What a person writes as objectives and limits: names of columns, directions, and what is wrong with them."""

from __future__ import annotations

import pandas as pd
import pytest

from pplib.columns import OBJECTIVES, direction
from pplib.config import Configuration, configuration
from pplib.errors import ConfigError
from pplib.grid import load_grid
from pplib.objectives import Aims, aims, of_configuration


def test_a_list_gives_each_column_its_usual_direction_and_a_mapping_its_own():
    found = aims(["throughput", "energy", "stage1_energy_per_image_j", "memory"], {"latency": 0.08})
    assert found.objectives == {
        "throughput_img_s": "max",
        "energy_per_image_j": "min",
        "stage1_energy_per_image_j": "min",
        "peak_memory_bytes": "min",
    }
    assert found.directions["latency_s"] == "min"
    assert aims({"efficiency": "min"}, {}).objectives == {"efficiency": "min"}, "whoever writes it means it"
    assert of_configuration(Configuration()) == Aims(OBJECTIVES, {}, 0.02)
    assert [direction(name) for name in ("accuracy_top1", "stage0_speed", "payload_bytes")] == ["max", "max", "min"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objectives": ["latency_ms"]}, "objectives: no column .* 'latency_ms'; nearest: .*latency_s"),
        ({"objectives": ["backend"]}, "objectives: backend is no figure that a cut could be better at"),
        ({"objectives": ["disturbed"]}, "objectives: disturbed is no figure"),
        ({"objectives": []}, "objectives: expected at least one column"),
        ({"objectives": ["latency", "latency_s"]}, "objectives: latency_s stands twice"),
        ({"objectives": {"latency_s": "less"}}, "objectives.latency_s: expected min or max, got 'less'"),
        ({"objectives": "latency_s"}, "objectives: expected"),
        ({"limits": {"watts": 3}}, "limits: no column .* 'watts'; "),
        ({"limits": {"energy": 1, "energy_per_image_j": 2}}, "limits: energy_per_image_j stands twice"),
        ({"limits": {"latency_s": "80 ms"}}, "limits.*: expected `float`"),
        ({"limits": {"latency_s": float("nan")}}, "limits.latency_s: expected a finite number, got nan"),
    ],
)
def test_what_is_wrong_with_objectives_is_said_before_anything_is_measured(values, words):
    with pytest.raises(ConfigError, match=words):
        configuration(values)


def test_objectives_of_a_grid_are_those_of_all_its_configurations(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("backend: [socket, rpc]\nobjectives: [response, energy]\nlimits: {latency: 0.08}\n")
    one, other = load_grid(path).configurations
    assert one.objectives == other.objectives == ["response", "energy"]
    assert one.variant is None
    assert one.measured() == Configuration(backend="socket").measured(), "they are no reason to measure again"


def test_a_column_that_no_trial_has_is_left_out_and_what_would_make_it_appear_is_said():
    trials = pd.DataFrame(
        {
            "status": ["ok", "failed"],
            "latency_s": [1.0, None],
            "throughput_img_s": [2.0, None],
            "payload_bytes": [None, 8],
        }
    )
    found, told = aims(["latency", "energy", "payload"], {"latency_p99_s": 1, "latency": 2}).known(trials)
    assert (found.objectives, found.limits) == ({"latency_s": "min"}, {"latency_s": 2.0})
    assert [one.split(",")[0] for one in told] == [
        f"No trial has {name}" for name in ("energy_per_image_j", "payload_bytes", "latency_p99_s")
    ]
    assert "meter" in told[0]
    assert "662 microbatches" in told[2]
    none, told = aims(["energy"], {}).known(trials)
    assert none.objectives == OBJECTIVES
    assert "No objective is left" in told[-1]
    partial = trials.assign(stage1_energy_per_image_j=1.0)
    assert "there is stage1_energy_per_image_j" in aims(["energy"], {}).known(partial)[1][0]
