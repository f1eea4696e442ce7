"""Remote devices for the tests of the testbed: see tests/helpers/remote_devices.py."""

from __future__ import annotations

import select
import sys
import time

import pytest

from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_missing
from pplib.testbed.provision.setup import set_up
from tests.helpers.remote_devices import LIMIT_S, running, skip_where_missing
from tests.sweep.conftest import calm_host  # noqa: F401 (a fixture)

SMALL = {
    "name": "remote",
    "model": "tests.helpers.models:tiny",
    "num_images": 4,
    "batch_size": 1,
    "partition_points": [0, 3],
    "in_flight": 2,
    "repeats": 1,
}
LINKS = "none: {}\nslow: {rate_bit_s: 20_000_000}\n"


@pytest.fixture
def remote_possible():
    """Skips a test whose own process starts the devices, where there can be none."""
    skip_where_missing()


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """Two devices for the tests of one module, which leave them as they were."""
    with running(tmp_path_factory.mktemp("remote")) as devices:
        yield devices


@pytest.fixture
def sweep(remote, tmp_path, monkeypatch):
    """Run a small configuration on two remote devices that are set up; its experiment and its rows."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "links.yaml").write_text(LINKS)
    monkeypatch.chdir(tmp_path)
    path = remote.write(tmp_path / "devices.yaml", python=sys.executable)
    outcomes = set_up(load_testbed(path))
    assert all(isinstance(one, str) for one in outcomes.values()), outcomes

    def run(tunnel="none", **changes):
        remote.write(path, python=sys.executable, top={"tunnel": tunnel})
        values = {**SMALL, "devices": str(path), "output_dir": str(tmp_path / "out"), **changes}
        experiment = prepare(configuration(values))
        return experiment, run_missing(experiment, progress=False)

    return run


@pytest.fixture
def start_remote(tmp_path):
    """A function that starts devices for one test: `with start_remote(num_devices=3) as remote`."""
    return lambda **options: running(tmp_path / "remote", **options)


@pytest.fixture
def wait_until():
    """A function that waits for a condition, with a limit."""

    def wait(condition, what, limit_s=LIMIT_S):
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, what
            select.select([], [], [], 0.05)

    return wait
