"""Small experiments for the sweep tests."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from pplib.objectives import of_configuration
from pplib.pipeline.monitor.disturbance import disturbance
from pplib.sweep.closing import closing_lines
from pplib.sweep.job import grid_run
from pplib.sweep.measuring import trial
from pplib.sweep.results import read_summary, write_summary

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "name": "tiny",
    "model": "tests.helpers.models:tiny",
    "num_images": 8,
    "batch_size": 2,
    "partition_points": [0, 2, 4],
    "in_flight": 2,
    "repeats": 2,
    "devices": str(ROOT / "params" / "devices" / "local.yaml"),
}
LINKS = """
none: {}
near: {delay_s: 0.002}                           # quickly verified
narrow: {delay_s: 0.002, rate_bit_s: 20_000_000}
uneven:
  forward: {delay_s: 0.004, rate_bit_s: 40_000_000}
  backward: {delay_s: 0.001}
"""


@pytest.fixture(autouse=True, scope="session")
def calm_host():
    """What other guests of the host of these tests take, and what it swaps, is no reason to measure a trial again."""

    def of_the_device(usage):
        return disturbance(msgspec.structs.replace(usage, steal_fraction=None, swapped_bytes=None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "disturbance", of_the_device)
        yield


class NothingShown(contextlib.nullcontext):
    """In place of kernels."""

    def __enter__(self):
        return self

    def wait_ready(self):
        """Nothing starts."""


@pytest.fixture
def unshown(monkeypatch):
    """Sweeps write their summary and say what to read first, but execute no notebook: that takes longest."""

    def told(results, configurations, wanted, *_):
        return [], closing_lines(read_summary(write_summary(results)), of_configuration(wanted))

    monkeypatch.setattr(grid_run, "Showing", NothingShown)
    monkeypatch.setattr(grid_run, "_show", told)


@pytest.fixture
def tiny(tmp_path):
    """Parameters of a small configuration that writes below tmp_path."""
    return {**TINY, "output_dir": str(tmp_path / "out")}


@pytest.fixture
def links(tmp_path, monkeypatch):
    """A folder to work in, with a link file of its own."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "links.yaml").write_text(LINKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the model of these tests is
    return tmp_path
