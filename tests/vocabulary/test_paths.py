"""A relative path means the same in a sweep, under papermill run anywhere, and in JupyterLab."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from pplib.config import configuration, input_path, looked_in, make_importable, project_path, search_folders
from pplib.errors import ConfigError, ModelError
from pplib.model.weights.checkpoint import check_source
from pplib.model.zoo import input_shape

ROOT = Path(__file__).resolve().parents[2]
FILE = "params/devices/local.yaml"  # as a user's weights or images in the checkout


@pytest.fixture(params=["checkout", "elsewhere", "notebooks"])
def folder(request, tmp_path, monkeypatch):
    """Where a sweep, papermill or JupyterLab has its current folder."""
    chosen = {"checkout": ROOT, "elsewhere": tmp_path, "notebooks": ROOT / "notebooks"}[request.param]
    monkeypatch.chdir(chosen)
    return chosen


def test_what_is_in_the_checkout_is_found_from_everywhere(folder):
    assert input_path(FILE) == configuration({"devices": FILE}).devices_file == ROOT / FILE
    check_source(FILE)


def test_an_absolute_path_is_taken_as_it_is(folder, tmp_path):
    (tmp_path / "x.pth").touch()
    assert input_path(tmp_path / "x.pth") == tmp_path / "x.pth" and not looked_in(tmp_path / "x.pth")


def test_the_current_folder_goes_before_the_checkout(tmp_path, monkeypatch):
    own = tmp_path / FILE
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.chdir(tmp_path)
    assert input_path(FILE) == own
    assert project_path("outputs") == tmp_path / "outputs"


def test_what_is_nowhere_says_where_it_was_looked_for(folder):
    searched = f"looked in {' and in '.join(map(str, search_folders()))}"
    assert search_folders() == ([folder, ROOT] if "pytest" in str(folder) else [ROOT])
    with pytest.raises(ModelError, match=r"no such file: no/such\.pth") as weights:
        check_source("no/such.pth")
    with pytest.raises(ConfigError, match=r"devices: no such file: no/such\.yaml") as devices:
        _ = configuration({"devices": "no/such.yaml"}).devices_file
    for caught in (weights, devices):
        assert searched in str(caught.value)


def test_a_users_module_in_the_checkout_or_in_the_current_folder_can_be_imported(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path and Path(path) not in (ROOT, tmp_path)])
    make_importable()
    assert str(ROOT / "tests") in list(importlib.util.find_spec("tests").submodule_search_locations)
    if folder == tmp_path:
        (tmp_path / "my_own_network.py").write_text("def build(): ...\nbuild.input_shape = (1, 5, 5)\n")
        importlib.invalidate_caches()
        assert input_shape("my_own_network:build") == (1, 5, 5)
        monkeypatch.delitem(sys.modules, "my_own_network")


def test_a_module_that_is_nowhere_says_where_it_was_looked_for(folder):
    with pytest.raises(ModelError, match=r"expected it in /.* or on PYTHONPATH") as caught:
        input_shape("no_such_module:build")
    assert all(f"in {place}" in str(caught.value) for place in search_folders())
