"""Configurations that differ in what executes their stages: measured in turns, told apart, or refused."""

from __future__ import annotations

import dataclasses
import importlib

import msgspec
import pytest

from pplib.config import configuration
from pplib.errors import ConfigError
from pplib.grid import load_grid, loading_torch
from pplib.pipeline.monitor.host import no_bfloat16
from pplib.pipeline.wire.messages import Description
from pplib.runtimes import installed, unfit
from pplib.sweep.claim import devices_content
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_together
from pplib.sweep.progress import Told
from pplib.sweep.results import summary_frame
from pplib.testbed.provision.needs import Needs, read_needs
from tests.helpers.records import read_records

DEVICE = Description(
    name="pi",
    boot_id="x",
    pid=1,
    host={"cpu": "x", "torch": "2"},
    data_host="127.0.0.1",
    data_port=1,
    backends=("socket",),
    rpc_groups=0,
    prefetch=None,
    runtimes={"eager": "2", "onnxruntime": "1.32.0"},
    unfit={},
    no_bfloat16="its processor has none of bf16",
)


def test_runtimes_and_precisions_are_measured_in_turns_on_the_same_workers(tiny):
    asked = [
        {"runtime": "onnxruntime"},
        {"runtime": ["onnxruntime", "eager"], "backend": "rpc"},
        {"runtime": "openvino", "precision": "int8"},
        {"runtime": ["executorch", "onnxruntime"]},
        {"precision": "bfloat16"},
    ]
    one = prepare(configuration({**tiny, **asked[0], "repeats": 1}), progress=False)
    if reason := no_bfloat16("cpu"):
        asked = [values for values in asked if values.get("precision") != "bfloat16"]
        assert "processor" in reason
    configs = [configuration({**tiny, **values, "repeats": 1}) for values in asked]

    def failed(config, error):
        raise error

    run_together([dataclasses.replace(one, config=config) for config in configs], Told(False), failed)
    results = configs[0].results
    summary = summary_frame(results)
    assert set(summary["status"]) == {"ok"}
    assert len(summary) == 3 * len(configs)
    exact = summary[summary["precision"] == "float32"]
    assert (exact["max_abs_err"] < 1e-4).all()
    assert (summary[summary["precision"] != "float32"]["max_abs_err"] > 1e-5).any()
    assert {config.identity for config in configs} == {path.name for path in results.iterdir()}
    assert configs[1].identity.endswith("_f2_onnxruntime+eager")
    assert configs[2].identity.endswith("_f2_openvino_int8")
    for record in read_records(configs[0].folder):
        assert all("onnxruntime" in device["runtimes"] for device in record.devices)


def test_a_device_that_lacks_the_runtime_or_the_precision_is_named_before_anything_is_measured():
    asked = configuration({"runtime": ["onnxruntime", "openvino"]})
    with pytest.raises(ConfigError, match=r"^pi: runtime openvino: its worker has eager, onnxruntime: `paretopipe set"):
        devices_content(asked, [DEVICE, DEVICE])
    asked = configuration({"precision": "bfloat16"})
    with pytest.raises(ConfigError, match=r"^pi: precision bfloat16: its processor has none of bf16: it would be emul"):
        devices_content(asked, [DEVICE, DEVICE])
    found = devices_content(configuration({"runtime": "onnxruntime"}), [DEVICE, DEVICE])["device pi"]
    assert found == {"cpu": "x", "torch": "2", "onnxruntime": "1.32.0"}
    assert "onnxruntime" not in devices_content(configuration({}), [DEVICE, DEVICE])["device pi"]


def test_a_runtime_that_is_there_but_not_for_the_gpu_of_its_device_is_told_before_anything_is_measured():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    assert unfit("cpu") == {}
    told = unfit("cuda:0")
    if "CUDAExecutionProvider" not in importlib.import_module("onnxruntime").get_available_providers():
        assert told["onnxruntime"].startswith("onnxruntime has no CUDA provider for cuda:0, only ")
        assert told["onnxruntime"].endswith("in place of onnxruntime, or `torch_device: cpu`")
    assert told["openvino"] == "openvino: expected `torch_device: cpu`, got cuda:0: it knows no CUDA"
    assert told["executorch"] == "executorch: expected `torch_device: cpu`, got cuda:0: XNNPACK knows no CUDA"
    gpu = msgspec.structs.replace(DEVICE, name="server", runtimes=installed(), unfit=told)
    with pytest.raises(ConfigError, match=r"^server: openvino: expected `torch_device: cpu`"):
        devices_content(configuration({"runtime": ["onnxruntime", "openvino"]}), [DEVICE, gpu])


def test_what_was_made_with_another_pytorch_than_the_device_has_is_told_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("pplib.runtimes.executorch.installed", lambda: {"eager": "2.9.1+cpu"})
    told = unfit("cpu")
    assert told == {
        "executorch": "executorch 1.5 needs the torch that it was made with, 2.14, got 2.9.1+cpu: "
        "`pip install 'torch==2.14.*'`"
    }
    old = msgspec.structs.replace(DEVICE, runtimes=installed(), unfit=told)
    with pytest.raises(ConfigError, match=r"^pi: executorch 1\.5 needs the torch"):
        devices_content(configuration({"runtime": "executorch"}), [old, old])
    monkeypatch.setattr("pplib.runtimes.executorch.installed", lambda: {"eager": "2.14.1"})
    assert unfit("cpu") == {}


def test_each_device_needs_what_its_stages_are_executed_by_and_pytorch_where_rpc_is_asked_for(tmp_path):
    (tmp_path / "devices.yaml").write_text("devices: [{name: pi}, {name: server}, {name: idle}]")
    for text, needed in {
        "runtime: [[onnxruntime, eager], openvino]": [{"onnxruntime", "openvino"}, {"eager", "openvino"}],
        "runtime: onnxruntime\nbackend: [socket, rpc]": [{"onnxruntime", "eager"}] * 2,
        "runtime: onnxruntime\nmodel: alexnet": [{"onnxruntime"}] * 2,
    }.items():
        (tmp_path / "grid.yaml").write_text(f"{text}\ndevices: {tmp_path}/devices.yaml")
        ((testbed, found),) = read_needs(tmp_path / "grid.yaml")
        assert testbed.names == ["pi", "server"]
        assert [set(found[name].runtimes) for name in testbed.names] == needed
        assert Needs(("onnxruntime", "openvino")).names == "requirements-onnxruntime.txt and requirements-openvino.txt"
        configs = load_grid(tmp_path / "grid.yaml").configurations
        assert loading_torch(configs, testbed.names) == {n for n, one in found.items() if "eager" in one.runtimes}
    ((testbed, found),) = read_needs(tmp_path / "devices.yaml")
    assert found == {} and len(testbed.devices) == 3
    (tmp_path / "short.yaml").write_text("runtime: onnxruntime")  # the devices that a grid has where it names none
    ((testbed, found),) = read_needs(tmp_path / "short.yaml")
    assert [found[name].runtimes for name in testbed.names] == [("onnxruntime",)] * 2
    (tmp_path / "bad.yaml").write_text("devices: [{name: pi}, {nam: server}]")
    with pytest.raises(ConfigError, match=r"bad.yaml: devices\[1\]"):
        read_needs(tmp_path / "bad.yaml")


def test_of_a_grid_what_a_runtime_cannot_do_is_left_out_and_what_none_can_is_refused(tmp_path):
    def grid(text):
        (tmp_path / "grid.yaml").write_text(text)
        found = load_grid(tmp_path / "grid.yaml").configurations
        return [(config.runtime, config.precision) for config in found]

    both = grid("runtime: [eager, onnxruntime, [eager, onnxruntime]]\nprecision: [float32, int8]")
    assert both == [
        ("eager", "float32"),
        ("onnxruntime", "float32"),
        ("onnxruntime", "int8"),
        ("eager+onnxruntime", "float32"),
    ]
    for text, told in {
        "runtime: [eager, onnxruntime]\nprecision: int8": "precision: eager computes in float32, bfloat16, not in int8",
        "runtime: [eager, onyxruntime]\nprecision: [float32, int8]": "runtime: 'onyxruntime' is unknown; nearest: onnx",
        "runtime: [[eager, onnxruntime, eager]]": "runtime: expected one runtime, or one for each of 2 stages, got ea",
        "runtime: [[eager, 3]]": "runtime: 3 is unknown; known: eager",
        "precision: int9": "precision: .*int9",
    }.items():
        with pytest.raises(ConfigError, match=f"grid.yaml: {told}".replace("+", r"\+")):
            grid(text)


def test_a_processor_tells_whether_it_has_bfloat16(tmp_path):
    for text, told in {
        "flags\t\t: fpu avx512_bf16\n": "",
        "Features\t: fp asimd bf16\n": "",
        "Features\t: fp asimd\n": "its processor has none of avx512_bf16, amx_bf16, bf16",
        "": "its processor has none of",
    }.items():
        (tmp_path / "cpuinfo").write_text(text)
        assert no_bfloat16("cpu", tmp_path / "cpuinfo").startswith(told)
        assert bool(told) == bool(no_bfloat16("cpu", tmp_path / "cpuinfo"))
    assert no_bfloat16("cpu", tmp_path / "none") == "this system does not tell what its processor has"

    class Old:
        def get_device_capability(self, device):
            return (7, 5)

    assert no_bfloat16("cuda:0", cuda=Old()) == "a GPU of compute capability (7, 5), expected (8, 0)"
