"""Stages for other runtimes than eager PyTorch: exported, cut, and what they compute; as files, as asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pplib.errors import ConfigError, ModelError, WorkerError
from pplib.model.exported.onnx_model import OnnxModel, export
from pplib.model.partition import PartitionedModel
from pplib.model.stages.proof import Reference
from pplib.model.weights.files import save_weights
from pplib.pipeline.coordinator.stage_making import StageMaker, computing
from pplib.runtimes import NAMES, Place, check_offered, check_precision, installed, joined, of_stages, runtime
from tests.helpers.models import tiny

EXPORTED = [name for name in NAMES if runtime(name).FORM != "operations"]
GRAPHS = [name for name in NAMES if runtime(name).FORM == "onnx"]


class Attention(nn.Module):
    """Tokens of patches, one head of attention, tied weights, a buffer, and shapes that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.register_buffer("place", torch.randn(1, 64, 32))
        self.norm = nn.LayerNorm(32)
        self.attend = nn.MultiheadAttention(32, 4, batch_first=True)
        self.out, self.back = nn.Linear(32, 32), nn.Linear(32, 32)
        self.back.weight = self.out.weight
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        x = x + self.attend(self.norm(x), self.norm(x), self.norm(x), need_weights=False)[0]
        return self.head(self.back(torch.nn.functional.gelu(self.out(x))).mean(1))


MODELS = {"residual": tiny, "attention": Attention}


def made(build, tmp_path, monkeypatch, count=2):
    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model, batches = build().eval(), [torch.randn(2, 3, 64, 64) for _ in range(count)]
    partitioned = PartitionedModel(model, batches[0], "layer")
    weights = save_weights(model, constants=partitioned.constants)
    return model, batches, partitioned, StageMaker(partitioned, batches, weights, "it")


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_cut_computes_what_the_model_computes_in_every_runtime(build, name, tmp_path, monkeypatch):
    model, batches, partitioned, maker = made(build, tmp_path, monkeypatch)
    reference = Reference(model, batches[0], partitioned.tolerance)
    # ExecuTorch lowers each stage anew, some of the cuts tell.
    for point in range(0, len(partitioned.points), 5 if runtime(name).FORM == "executorch" else 1):
        for pair in ([name, name], [name, "eager"], ["eager", name]):
            forms = maker.make((point,), pair, "float32")
            stages = computing(forms, partitioned.stages((point,)))
            assert reference.check(stages) < 1e-4


def test_weights_travel_once_and_the_graphs_of_stages_are_small(tmp_path, monkeypatch):
    _, _, partitioned, maker = made(tiny, tmp_path, monkeypatch)
    last = len(partitioned.points) - 1
    forms = [maker.make((point,), ["onnxruntime"] * 2, "float32") for point in range(last + 1)]
    assert len(maker.files) == 1, "one file for the stages of all cuts"
    assert all(len(stage.graph) < 20_000 for pair in forms for stage in pair)
    assert forms[0][0].graph == forms[-1][1].graph == b""
    assert maker.make((2,), ["eager", "onnxruntime"], "float32")[1] == forms[2][1]
    assert len(maker.files) == 2, "and the one that eager PyTorch loads from"
    whole = forms[-1][0].param_bytes
    for one, other in forms:
        assert one.param_bytes + other.param_bytes == pytest.approx(whole, abs=64)


def test_int8_has_files_of_its_own_a_quarter_as_large_and_is_close(tmp_path, monkeypatch):
    model, batches, partitioned, maker = made(tiny, tmp_path, monkeypatch)
    middle = len(partitioned.points) // 2
    whole = maker.make((len(partitioned.points) - 1,), ["onnxruntime"] * 2, "float32")[0].param_bytes
    with torch.inference_mode():
        exact = model(batches[1]).numpy()
    for name in EXPORTED:
        forms = maker.make((middle,), [name, name], "int8")
        assert len(maker.files) == (2 if runtime(name).FORM == "executorch" else 3)
        assert sum(form.param_bytes for form in forms) < 0.5 * whole
        value = batches[1]
        for stage in computing(forms, partitioned.stages((middle,))):
            value = stage(value)
        cosine = float((value.numpy() * exact).sum() / np.linalg.norm(value) / np.linalg.norm(exact))
        assert 0.99 < cosine < 0.9999999, name


def test_an_operation_that_cannot_be_exported_is_named_with_what_to_do(tmp_path, monkeypatch):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x.mean(1))

    _, _, _, maker = made(Odd, tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"^it: cannot be exported to ONNX: .*eigh.*runtime: eager"):
        maker.make((1,), ["onnxruntime", "onnxruntime"], "float32")


def test_programs_for_executorch_have_their_weights_in_one_file_for_all_cuts(tmp_path, monkeypatch):
    _, _, partitioned, maker = made(tiny, tmp_path, monkeypatch)
    points = len(partitioned.points) // 3, len(partitioned.points) // 2
    forms = [maker.make((point,), ["executorch"] * 2, "float32") for point in points]
    assert len(maker.files) == 1
    name = next(iter(maker.files)).encode() + b".safetensors"
    assert all(stage.graph.startswith(name + b"\n") for pair in forms for stage in pair)
    assert all(len(stage.graph) < 50_000 for pair in forms for stage in pair)
    whole = [sum(stage.param_bytes for stage in pair) for pair in forms]
    assert whole[0] == pytest.approx(whole[1], rel=0.01)
    for bad in (b"no program", b"../../etc/passwd\nx", name + b"\nno program"):
        with pytest.raises(WorkerError, match=r"^executorch cannot open the stage"):
            runtime("executorch").open_stage(bad, tmp_path, Place(1, "cpu"))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_none_and_one_that_asks_for_files_of_others_are_refused(name, tmp_path, monkeypatch):
    _, batches, partitioned, _ = made(tiny, tmp_path, monkeypatch)
    with pytest.raises(WorkerError, match=f"^{name} cannot open the stage"):
        runtime(name).open_stage(b"no graph", tmp_path, Place(1, "cpu"))
    model = OnnxModel(export(partitioned, batches[0], "it"))
    for one in model._model.graph.initializer:
        for entry in one.external_data:
            if entry.key == "location":
                entry.value = "../../../../../../../etc/passwd"
    with pytest.raises(WorkerError, match=f"^{name} cannot open the stage"):
        runtime(name).open_stage(model.stage(0, len(partitioned.points) - 1)[0], tmp_path / "weights", Place(1, "cpu"))


def test_what_is_asked_for_is_one_word_and_errors_name_the_device_and_the_package():
    assert set(installed()) == set(NAMES)
    assert joined(["onnxruntime", "eager"]) == "onnxruntime+eager"
    with pytest.raises(ConfigError, match=r"^runtime: 'onnxrutime' is unknown; nearest: onnxruntime$"):
        joined("onnxrutime")
    with pytest.raises(ConfigError, match=r"^runtime: expected one runtime, or one for each of 3 stages, got eager\+"):
        of_stages("eager+openvino", 3)
    told = (
        r"^pi: runtime openvino: its worker has eager: `paretopipe setup GRID`, with this sweep's file, installs it, "
        r"or `pip install openvino` in the environment of its worker$"
    )
    with pytest.raises(ConfigError, match=told):
        check_offered("onnxruntime+openvino", [("gpu", ["onnxruntime", "eager"], {}), ("pi", ["eager"], {})])
    with pytest.raises(
        ConfigError, match=r"^precision: eager computes in .*, not in int8: that is what executorch, on"
    ):
        check_precision("onnxruntime+eager", "int8")
    assert list(itertools.chain(*(runtime(name).PRECISIONS for name in NAMES))).count("float32") == len(NAMES)
