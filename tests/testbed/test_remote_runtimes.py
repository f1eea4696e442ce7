"""Devices without PyTorch, over OpenSSH: what a requirements file lists is all that a worker of that runtime needs."""

from __future__ import annotations

import pytest

from pplib import ROOT
from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.errors import WorkerError
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_missing
from pplib.sweep.results import summary_frame
from pplib.testbed.provision.check import check
from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.setup import set_up
from tests.helpers.environment import distributions, environment
from tests.helpers.records import read_records
from tests.testbed.conftest import SMALL

pytestmark = pytest.mark.waits(60)


@pytest.fixture(params=["onnxruntime", "openvino"])
def without_torch(request, remote, tmp_path):
    """A runtime, and a device file of two devices that have what it needs and nothing else, set up for it."""
    pytest.importorskip(request.param)
    requirements = ROOT / f"requirements-{request.param}.txt"
    assert not {"torch", "torchvision", "safetensors"} & set(distributions(requirements))
    path = remote.write(tmp_path / "devices.yaml", python=str(environment(tmp_path / "env", requirements)))
    testbed = load_testbed(path)
    needs = {name: Needs((request.param,)) for name in testbed.names}
    outcomes = set_up(testbed, needs=needs)
    assert all(f"{request.param} " in str(one) for one in outcomes.values()), outcomes
    assert check(testbed, needs).ok
    return request.param, path, {**SMALL, "devices": str(path), "output_dir": str(tmp_path / "out")}


def test_a_sweep_over_ssh_needs_no_pytorch_on_its_devices_and_says_so(without_torch):
    name, path, values = without_torch
    experiment = prepare(configuration({**values, "runtime": name}), progress=False)
    run_missing(experiment, progress=False)
    summary = summary_frame(experiment.config.results)
    assert list(summary["status"]) == ["ok", "ok"], list(summary["error"])
    assert (summary["max_abs_err"] < 1e-4).all()
    for record in read_records(experiment.config.folder):
        assert [device["torch"] for device in record.devices] == ["none", "none"]
        assert [set(device["runtimes"]) for device in record.devices] == [{name}, {name}]
    report = check(load_testbed(path))
    assert not report.ok and f"a grid of {name} needs none there" in str(report)


def test_the_devices_are_timed_for_a_cut_of_its_own_choice_without_pytorch(without_torch):
    name, _, values = without_torch
    asked = {**values, "runtime": name, "partition_points": "auto"}
    run_missing(prepare(configuration(asked), progress=False), progress=False)
    summary = summary_frame(configuration(asked).results)
    assert list(summary["status"]) == ["ok"], list(summary["error"])


def test_what_needs_pytorch_is_refused_by_a_device_without_it(without_torch):
    name, _, values = without_torch
    for asked in ({"runtime": "eager"}, {"runtime": name, "backend": "rpc"}):
        experiment = prepare(configuration({**values, **asked}), progress=False)
        with pytest.raises(
            WorkerError, match=r"^device-.: the worker was not ready: .*PyTorch is not installed here: `p"
        ):
            run_missing(experiment, progress=False)
