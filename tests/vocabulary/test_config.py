"""Parameters and grids: what is right is kept, what is wrong is named with its path."""

from __future__ import annotations

import pytest

from pplib.config import Configuration, configuration, from_notebook, load_grid, project_path
from pplib.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": "four"}, r"^batch_size: expected `int`, got 'four'$"),
        ({"batchsize": 4}, r"^batchsize: unknown key; nearest: batch_size"),
        ({"batch_size": 0}, r"^batch_size: expected `int` >= 1, got 0$"),
        ({"backend": "tcp"}, r"^backend: expected one of rpc, socket, got 'tcp'$"),
        ({"partition_points": "most"}, r"^partition_points: expected one of all, auto, even, a list of points"),
        ({"partition_points": [1, "x"]}, r"^partition_points\[1\]: .*got 'x'$"),
        ({"num_images": 10}, r"^num_images: expected a multiple of batch_size=8 .*got 10: try 16 or 24$"),
        ({"num_images": 8}, r"^num_images: .*at least 2 microbatches"),
        ({"num_stages": 1}, r"^num_stages: expected `int` >= 2, got 1$"),
        ({"optimize": 1}, r"^optimize: expected `bool`, got 1$"),
        ({"link": "wifi"}, r"^link: 'wifi' is not in .*links\.yaml; nearest: wifi-poor, wifi-good"),
        ({"in_flight": [1, 2]}, r"^in_flight: expected one value, got the list \[1, 2\]: lists make a grid"),
        ({"name": "a/b"}, r"^name: expected a plain folder name, got 'a/b'$"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected_and_what_came(values, message):
    with pytest.raises(ConfigError, match=message):
        configuration(values)


def test_a_parameter_the_notebook_does_not_have_is_an_error_and_not_a_warning():
    namespace = {"batch_size": 4, "num_images": 8, "in_flihgt": 2, "In": [], "_x": 1, "pytest": pytest}
    with pytest.raises(ConfigError, match="in_flihgt: unknown key; nearest: in_flight"):
        from_notebook(namespace)
    del namespace["in_flihgt"]
    assert from_notebook(namespace).num_microbatches == 2


def test_a_grid_expands_its_lists_and_nothing_else(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("backend: [socket, rpc]\nin_flight: [1, 2]\npartition_points: [0, 3]\nkeep: summary\n")
    loaded = load_grid(grid)
    assert loaded.keep == "summary"
    assert [(c.backend, c.in_flight) for c in loaded.configurations] == [
        ("socket", 1),
        ("socket", 2),
        ("rpc", 1),
        ("rpc", 2),
    ]
    assert all(c.partition_points == [0, 3] for c in loaded.configurations)
    assert len({c.identity for c in loaded.configurations}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1, 2]\n", "two configurations share the folder"),
        ("backend: []\n", "backend: expected at least one value, got an empty list"),
        ("devices: [a.yaml, b.yaml]\n", "devices: expected one value for the whole grid"),
        ("batch_size: four\n", r"grid.yaml: batch_size: expected `int`, got 'four'"),
        ("keep: some\n", "grid.yaml: keep: expected one of all, summary, got 'some'"),
        ("- 1\n", "expected `key: value` lines, got list"),
        ("a: [\n", r"not valid YAML: .*\n?.*"),
    ],
)
def test_a_wrong_grid_is_refused_with_its_file_and_key(tmp_path, text, message):
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_grid(grid)


def test_a_missing_grid_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_grid(tmp_path / "nowhere.yaml")


def test_relative_paths_count_from_the_checkout_when_a_notebook_runs_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_path("outputs") == tmp_path / "outputs"
    root = project_path(__file__).parents[2]
    monkeypatch.chdir(root / "notebooks")
    assert project_path("outputs") == root / "outputs"


def test_parameters_that_do_not_change_what_is_measured_do_not_separate_results():
    one = Configuration(name="a", repeats=3, partition_points=[1])
    other = Configuration(name="b", repeats=5)
    assert one.measured() == other.measured() != Configuration(seed=1).measured()
