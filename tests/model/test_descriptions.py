"""A stage as plain data: what a device makes of it, and what it refuses to make."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from pplib.errors import ModelError
from pplib.model.partition import split
from pplib.model.stages.describe import build, describe
from pplib.model.stages.description import StageDescription
from pplib.model.weights.files import load_stage_weights, save_weights

CPU = torch.device("cpu")


def described() -> dict:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    (stage,) = split(model, (), example_input=torch.zeros(1, 3, 8, 8))
    return msgspec.to_builtins(describe(stage))


def read(plain: dict) -> nn.Module:
    return build(msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=StageDescription), CPU)


def test_a_stage_comes_back_as_it_was(tmp_path):
    model, batch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()).eval(), torch.randn(2, 3, 8, 8)
    (stage,) = split(model, (), example_input=batch)
    again = read(msgspec.to_builtins(describe(stage)))
    assert all(tensor.is_meta for tensor in again.state_dict().values())
    load_stage_weights(again, save_weights(model, tmp_path))
    assert list(again.state_dict()) == list(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(batch), model(batch))


def _operation(plain: dict, op: str, target: str, args) -> dict:
    plain["operations"] = list(plain["operations"])
    plain["operations"][1] = {"op": op, "name": "_0", "target": target, "args": args, "kwargs": {"dict": []}}
    return plain


@pytest.mark.parametrize(
    ("op", "target"),
    [
        ("call_function", "os.system"),
        ("call_function", "builtins.eval"),
        ("call_function", "torch.load"),
        ("call_function", "torch.hub.load"),
        ("call_function", "operator.methodcaller"),
        ("call_function", "torch.from_file"),
        ("call_function", "torch.ops.aten.from_file"),
        ("call_method", "__class__"),
        ("call_method", "__reduce_ex__"),
        ("call_method", "apply_"),
        ("call_method", "tofile"),
        ("call_module", "nothing"),
        ("get_attr", "nothing.weight"),
    ],
)
def test_nothing_but_operations_on_tensors_can_be_named(op, target):
    plain = _operation(described(), op, target, {"tuple": [{"node": "x"}]})
    with pytest.raises(ModelError):
        read(plain)


def test_private_attributes_cannot_be_read():
    plain = _operation(described(), "call_function", "getattr", {"tuple": [{"node": "x"}, "__class__"]})
    plain["operations"] = [*plain["operations"][:2], {**plain["operations"][-1], "args": {"tuple": [{"node": "_0"}]}}]
    stage = read(plain)
    with pytest.raises(ModelError, match="no attribute that a stage can read"):
        stage(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    "kind", ["os.PathLike", "torch.nn.modules.module.Module2", "torch.nn.DataParallel", "nn.Conv2d"]
)
def test_layers_are_those_of_torch(kind):
    plain = described()
    plain["layers"]["0"]["kind"] = kind
    with pytest.raises(ModelError, match="no layer that a stage can have"):
        read(plain)


@pytest.mark.parametrize("key", ["forward", "_forward_hooks", "__class__", "_conv_forward"])
def test_a_layers_methods_cannot_be_replaced(key):
    plain = described()
    plain["layers"]["0"]["attributes"][key] = 1
    with pytest.raises(ModelError, match=f"cannot be given an attribute '{key}'"):
        read(plain)


@pytest.mark.parametrize("name", ['0"); import os; ("', "a\nb", ""])
def test_names_cannot_carry_text_of_a_program(name):
    plain = described()
    plain["layers"][name] = plain["layers"]["0"]
    with pytest.raises(ModelError, match="cannot be the name"):
        read(plain)


def test_a_layer_of_ones_own_is_refused_by_name():
    class Own(nn.Linear):
        pass

    graph = torch.fx.Graph()
    graph.output(graph.call_module("own", (graph.placeholder("x"),)))
    stage = torch.fx.GraphModule({"own": Own(3, 3)}, graph)
    with pytest.raises(ModelError, match=r"own: .*Own is no layer of torch.nn"):
        describe(stage)
