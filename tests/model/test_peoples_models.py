"""Models as people have them: each works, or is refused before a worker starts with the reason and the way on."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from typing import NamedTuple

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pplib.config import Configuration
from pplib.errors import ModelError
from pplib.model.partition import PartitionedModel, split
from pplib.model.stages.proof import tolerance_of
from pplib.model.zoo import build_model, input_dtype, load_model
from pplib.sweep.experiment import prepare
from pplib.sweep.job.experiment_check import count_units
from tests.helpers.proof import verify_cut


class Net(nn.Module):
    """A small network around `body`."""

    def __init__(self, body=lambda net, x: x) -> None:
        super().__init__()
        self.body = body
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.calls = nn.Buffer(torch.tensor(0))

    def forward(self, x):
        return self.fc(self.norm(self.conv(self.body(self, x))).mean((2, 3)))


class Taking(Net):
    """Takes bytes."""

    def forward(self, x):
        return super().forward(x.float() / 255)


class Half(nn.Module):
    """Returns what is given, transposed in memory."""

    def forward(self, x):
        return x.mean(1).transpose(1, 2)


class Hidden(nn.Module):
    """A hidden state for two images."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(256, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(x.flatten(2), torch.zeros(1, 2, 5))[0]


class Two(nn.Module):
    """Two inputs."""

    def forward(self, x, y):
        return x + y


class Many(Net):
    """Two outputs."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x))


def _counted(net, x):
    net.calls += 1
    return x


def _prints(net, x):
    sys.stdout.write(f"a batch of {x.shape}")
    return x


def _normalises_in_place(net, x):
    x -= 0.5
    return x.div_(0.5)


def _caches(net, x):
    if x.shape[-1] not in net.cache:
        net.cache[x.shape[-1]] = torch.linspace(0, 1, x.shape[-1])
    return x + net.cache[x.shape[-1]]


def _caching():
    model = Net(_caches)
    model.cache = {}
    return model


class Outside(nn.Module):
    """A cache that does not belong to it."""

    def __init__(self) -> None:
        super().__init__()
        self.made = functools.cache(lambda size, end: torch.linspace(0, end, size))

    def forward(self, x):
        return x + self.made(x.shape[-1], 1)


def _compiled_part():
    twice = torch.compile(lambda x: x * 2)
    return Net(lambda net, x: twice(x))


def _exported():
    return torch.export.export(nn.Sequential(nn.Conv2d(3, 3, 1)), (torch.zeros(2, 3, 16, 16),)).module()


def _named(name):
    model = Net()
    model.add_module(name, nn.ReLU())
    return model


class Fields(NamedTuple):
    """Several outputs by name."""

    features: object
    logits: object


@dataclasses.dataclass
class Result:
    """Several outputs by name."""

    logits: object
    loss: object = None


def _trains(net, x):
    net.norm.train()
    return x


def _on_meta():
    with torch.device("meta"):
        return Net()


def _lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))


def _inside():
    return nn.Sequential(nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), nn.Flatten(1))


def _picked():
    model = Many(lambda y: (y, y))
    model.register_forward_hook(lambda module, inputs, output: output[0])
    return model


def _joined():
    model = Two()
    model.register_forward_pre_hook(lambda module, inputs: inputs[0].chunk(2, dim=2))
    return model


def _computes_a_size():
    model = Net()
    with torch.no_grad():
        size = model.conv(torch.zeros(1, 3, 16, 16)).flatten(1).shape[1]
    return nn.Sequential(model.conv, nn.Flatten(), nn.Linear(size, 4))


def _quantized():
    return nn.Sequential(torch.ao.nn.quantized.Linear(3, 3))


def _reads_the_command_line():
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--needed", required=True)
    parser.parse_args([])


WORKS = {
    "DataParallel": lambda: nn.DataParallel(Net()),
    "DataParallel inside": _inside,
    "torch.compile": lambda: torch.compile(Net()),
    "compiled in place": lambda: (model := Net(), model.compile())[0],
    "lazy layers": _lazy,
    "half": lambda: Net().half(),
    "bfloat16": lambda: Net().bfloat16(),
    "double": lambda: Net().double(),
    "a counter": lambda: Net(_counted),
    "prints": lambda: Net(_prints),
    "a cache in an attribute": _caching,
    "a function under torch.compile": _compiled_part,
    "normalises its input in place": lambda: Net(_normalises_in_place),
    "statistics of the batch": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768, track_running_stats=False)),
    "a batch size written down": Hidden,
    "output not contiguous": Half,
    "picks one output": _picked,
    "makes two inputs of one": _joined,
    "computes a size in __init__": _computes_a_size,
    "recurrent": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(256, 6), Rnn()),
    "attention": lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(256, 4, 32, batch_first=True)),
}  # fmt: skip


class Rnn(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        out, (hidden, _) = self.rnn(x)
        return out[:, -1] + hidden[-1]


@pytest.fixture
def users(monkeypatch):
    """Makes a function of the user's known as `peoples_models:build`; gives a small configuration of it."""
    module = types.ModuleType("peoples_models")
    monkeypatch.setitem(sys.modules, "peoples_models", module)

    def known(build, **attributes) -> Configuration:
        def function():
            return build()

        vars(function).update({"input_shape": (3, 16, 16), **attributes})
        module.build = function
        return Configuration(name="x", model="peoples_models:build", num_images=4, batch_size=2, num_stages=2)

    return known


@pytest.mark.parametrize("build", WORKS.values(), ids=WORKS)
def test_works_from_the_pre_check_to_the_plan_that_devices_get(users, tmp_path, monkeypatch, build):
    from pplib.model.stages.describe import build as rebuild
    from pplib.model.weights.files import load_stage_weights
    from pplib.pipeline.stage.tensors import array_of

    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    config = users(build)
    units = count_units(config)
    experiment = prepare(config)
    assert len(experiment.partitioned.points) == units + 1
    for points in experiment.points:
        plan = experiment.plan(points)
        assert plan.tensors[0] == experiment.input_spec
        stages = [rebuild(stage, torch.device("cpu")) for stage in plan.stages]
        for stage in stages:
            load_stage_weights(stage, experiment.weights)
        with torch.inference_mode():
            outputs = [array_of(stages[1](stages[0](batch))) for batch in experiment.batches]
        assert experiment.check_outputs(outputs).max_abs_err < 1e-5


REFUSED = {
    "a tuple": (lambda: Many(lambda y: (y, y)), r"returns a tuple of 2: .*register_forward_hook\(.*output\[0\]"),
    "a cache elsewhere": (Outside, "an earlier call made of an input .*lru_cache.*attribute of the module"),
    "torch.export": (_exported, "cannot be put into eval mode .*not a program of torch.export"),
    "a name of Python": (lambda: _named("class"), "'class' cannot stand in the text of a function: rename it"),
    "a name with quotes": (lambda: _named('a"b'), "cannot stand in the text of a function: rename it"),
    "a list of dicts": (lambda: Many(lambda y: [{"boxes": y}]), r"a list of 1: .*output\[0\]\['boxes'\]"),
    "a named tuple": (lambda: Many(lambda y: Fields(None, y)), r"a Fields with the fields features, .*output\.logits"),
    "a dataclass": (lambda: Many(Result), r"a Result with the fields logits, loss: .*output\.logits"),
    "nothing": (lambda: Many(lambda y: None), r"it returns nothing \(None\): return one"),
    "an empty output": (lambda: Many(lambda y: y[:, :0]), r"its output is empty, \(1, 0\)"),
    "a number": (lambda: Many(lambda y: 3.0), "it returns a float: return one"),
    "a constant": (lambda: Many(lambda y: torch.ones(3)), "a tensor that does not depend on its input"),
    "a result with names": (lambda: Many(lambda y: y.topk(2)), r"a tuple of 2: .*output\[0\]"),
    "training in forward": (lambda: Net(_trains), "norm is in training mode when it is called"),
    "no values": (_on_meta, r"has no values \(it is on the meta device\)"),
    "another shape": (lambda: nn.Conv2d(1, 3, 3), r"does not run on a batch of shape \(2, 3, 16, 16\).*`input_shape`"),
    "a dict": (lambda: Many(lambda y: {"out": y}), r"a dict with the keys out: .*output\['out'\]"),
    "two inputs": (Two, r"must take one tensor, it takes 2 \(x, y\): .*register_forward_pre_hook"),
    "quantized": (_quantized, r"0 is quantized \(Linear\).*before quantization"),
    "TorchScript": (lambda: torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3)), "is TorchScript, which cannot be cut"),
    "dropout that stays on": (lambda: Net(lambda net, x: F.dropout(x, 0.5)), "differs from one call to the next"),
    "random numbers": (lambda: Net(lambda net, x: x + torch.rand_like(x)), "differs from one call to the next"),
    "numbers of its own": (lambda: Net(lambda net, x: x * torch.rand(1)), "differs from one call to the next"),
    "a state": (lambda: Net(lambda net, x: x * _counted(net, net.calls)), "differs from one call to the next"),
    "argparse": (_reads_the_command_line, "SystemExit: 2 .*__main__"),
    "values": (lambda: Net(lambda net, x: x if x.sum() > 0 else -x), "cannot be traced at .*torch.where"),
    "lazy of another shape": (lambda: nn.Sequential(nn.LazyConv2d(4, 99)), "lazy layers .*input_shape"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("build", "match"), REFUSED.values(), ids=REFUSED)
def test_is_refused_before_a_device_is_touched(users, build, match):
    with pytest.raises(ModelError, match=match):
        count_units(users(build))


def test_inputs_are_made_in_the_models_dtype_and_the_tolerance_knows_it(users):
    assert input_dtype("peoples_models:build", build_model(users(lambda: Net().half()).model)) == torch.float16
    assert tolerance_of([torch.float32]) == pytest.approx(1e-3, rel=0.1)
    assert tolerance_of([torch.float64]) < 1e-6 < tolerance_of([torch.float32]) < tolerance_of([torch.bfloat16])
    model = Net().double().eval()
    stages = split(model, (1,), example_input=torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    with torch.no_grad():
        stages[1].get_submodule("fc").bias.add_(1e-5)
        whole = Net().double().eval()
        whole.load_state_dict(model.state_dict())
        whole.fc.bias.sub_(1e-5)
    with pytest.raises(ModelError, match="do not compute what the model computes"):
        verify_cut(whole, stages, torch.zeros(1, 3, 16, 16, dtype=torch.float64))


def test_inputs_of_bytes_are_declared_by_an_attribute(users, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    config = users(Taking, input_dtype="uint8")
    assert count_units(config) >= 1
    experiment = prepare(config)
    assert experiment.input_spec.dtype == "uint8" and experiment.batches[0].dtype == torch.uint8
    with pytest.raises(ModelError, match=r"input_dtype: expected one of float32.*got 'int63'"):
        count_units(users(Taking, input_dtype="int63"))


@pytest.mark.parametrize("shape", [16, None, "3,16,16", (16, 16), (1, 3, 16, 16), (3, 16, 0.5)])
def test_an_input_shape_that_is_none_is_refused(users, shape):
    with pytest.raises(ModelError, match=r"input_shape: expected three positive integers \(C, H, W\), got"):
        count_units(users(Net, input_shape=shape))


@pytest.mark.parametrize("kind", ["attention", "recurrent", "lazy layers"])
def test_a_model_that_is_made_again_has_the_same_content(users, tmp_path, monkeypatch, kind):
    """Functions and tensors lie elsewhere in memory each time."""
    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    config = users(WORKS[kind])
    first, again = prepare(config, progress=False), prepare(config, progress=False)
    assert first.model is not again.model
    assert first.content == again.content


def test_a_model_that_several_configurations_share_is_loaded_and_proven_once(users):
    runs, built = [], []

    def build():
        built.append(1)
        return Net(lambda net, x: (runs.append(1), x)[1])

    config, proven = users(build), {}
    count_units(config, proven)
    runs.clear()
    count_units(msgspec.structs.replace(config, granularity="layer"), proven)
    assert built == [1]
    assert runs == [1], "it is traced"


def test_weights_that_the_function_loads_itself_count(users, tmp_path):
    trained = Net()
    torch.save(trained.state_dict(), tmp_path / "own.pth")

    def build():
        model = Net()
        model.load_state_dict(torch.load(tmp_path / "own.pth"))
        return model

    config = users(build)
    loaded = load_model(config.model)
    assert torch.equal(loaded.fc.weight, trained.fc.weight)
    assert count_units(config) == len(PartitionedModel(trained.eval(), torch.zeros(1, 3, 16, 16)).points) - 1
