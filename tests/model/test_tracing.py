"""What forward() asks of shapes is decided by the example; what it asks of a tensor's content is refused."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import BaseTorchFunctionMode

from pplib.errors import ModelError
from pplib.model.partition import PartitionedModel
from pplib.model.stages.optimise import optimise
from tests.helpers.proof import verify_cut


class Net(nn.Module):
    """A small network whose forward() begins with `body`."""

    def __init__(self, body) -> None:
        super().__init__()
        self.body = body
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.register_buffer("times", torch.tensor(2))
        self.calls = nn.Buffer(torch.tensor(0))

    def head(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))

    def forward(self, x):
        return self.head(self.body(self, x))


def _branch(net, x):
    return F.avg_pool2d(x, 2) if x.shape[2] > 32 else x


def _asserts(net, x):
    assert x.shape[1] == 3, "expected colour"
    assert isinstance(x, torch.Tensor)
    assert torch.is_tensor(x)
    if x.ndim != 4 or x.dim() != 4 or len(x.shape) != 4 or x.is_cuda or x.dtype != torch.float32:
        raise ValueError(f"{x.shape[0]:d}")
    return x


def _loop_over_a_shape(net, x):
    for i in range(x.shape[1] // 3):
        x = x * (i + 2)
    return x


def _same_padding(net, x):
    """As timm's tf_efficientnet: padding computed from the size."""
    height, width = x.size()[-2:]
    rows = max((math.ceil(height / 2) - 1) * 2 + 3 - height, 0)
    columns = max((-(-width // 2) - 1) * 2 + 3 - width, 0)
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _patches(net, x):
    """As mobilevit: sizes are rounded up, and patches unfolded by reshaping."""
    batch, channels, height, width = x.shape
    rows, columns = int(math.ceil(height / 7) * 7), int(math.ceil(width / 7) * 7)
    if rows != height or columns != width:
        x = F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)
    x = x.reshape(batch * channels * (rows // 7), 7, columns // 7, 7).transpose(1, 2)
    return x.reshape(batch, channels, rows, columns)


def _made_of_shapes(net, x):
    y = torch.zeros(x.shape[0], 3, *x.shape[2:], device=x.device)
    y[:, 0] = x[:, 0]
    return y + torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)


def _default_dtype(net, x):
    torch.set_default_dtype(torch.float64)
    y = torch.ones(x.shape[0], 1, 1, 1)
    torch.set_default_dtype(torch.float32)
    return (x * y).float()


def _number_of_the_weights(net, x):
    for _ in range(int(net.times)):
        x = x * 2
    return x


def _counts(net, x):
    net.calls += 1
    net.last_shape = x.shape
    return x


def _each_image(net, x):
    return torch.stack([image * 2 for image in x])


def _named_results(net, x):
    largest, _ = torch.max(x, 1, keepdim=True)
    return x * largest + torch.topk(x, 2, 1).values[:, :1] + x.mT.mT


def _scaled_by_a_number(net, x):
    return x * x.max().item()


@torch.fx.wrap
def _marked(x):
    return x * 2 if x.shape[1] == 3 else x


def _wrapped(net, x):
    return _marked(x)


def _numbers_of_numpy(net, x):
    x = x.view(x.shape[0], 3, np.prod(x.shape[2:])).view(x.shape)
    return np.sqrt(2.0) * x / np.sqrt(x.shape[1]) + np.float32(3) - np.asarray(x.shape).sum()


def _made_of_a_whole_shape(net, x):
    y = torch.zeros(x.shape) + torch.ones(x.size()) + torch.zeros(size=x.shape) + torch.ones(x.shape[2:])
    return x + y + torch.empty(*x.shape).fill_(1)


def _in_place_under_two_names(net, x):
    y = x * 2
    z = y.relu_()
    y += 1
    y[:, :1] *= 3
    return z


def _in_place_keeps_its_dtype(net, x):
    y = x.half()
    y += x
    return torch.cat([y, y], 3)[..., : y.shape[3]].float() * (1.0 if y.dtype == torch.float16 else torch.nan)


def _in_place_on_its_input(net, x):
    kept = x
    x -= 0.5
    x /= 0.5
    return x + kept


def _numbers_in_place(net, x):
    count = x.shape[0]
    count *= 2
    return x.view(count // 2, 3, *x.shape[2:])


def _layers_made_in_forward(net, x):
    return nn.Upsample(scale_factor=2)(nn.ReLU()(x))


_LISTED = [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).eval()]


def _layers_that_no_module_knows(net, x):
    for layer in _LISTED:
        x = layer(x)
    return x


def _swish(x):
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch says that it is going away; people's models have it
    _scripted = torch.jit.script(_swish)


def _under_torch_jit_script(net, x):
    return _scripted(x)


def _activations_in_place(net, x):
    return F.hardswish(F.hardsigmoid(F.leaky_relu_(x * 2), inplace=True), inplace=True)


def _copies(net, x):
    return copy.deepcopy(x) + copy.copy(x) + copy.deepcopy(net.fc.weight).sum()


BODIES = [
    _branch, _asserts, _loop_over_a_shape, _same_padding, _patches, _made_of_shapes, _default_dtype,
    _number_of_the_weights, _counts, _each_image, _named_results, _scaled_by_a_number, _wrapped,
    _numbers_of_numpy, _made_of_a_whole_shape, _in_place_under_two_names, _in_place_keeps_its_dtype,
    _in_place_on_its_input, _numbers_in_place, _layers_made_in_forward, _layers_that_no_module_knows,
    _under_torch_jit_script, _activations_in_place, _copies,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_what_depends_on_shapes_is_traced_and_every_cut_computes_the_model(body):
    model, batch = Net(body).eval(), torch.randn(2, 3, 40, 36)
    partitioned = PartitionedModel(model, batch, "layer")
    assert len(partitioned.points) >= 2
    for p in range(len(partitioned.points)):
        stages = partitioned.stages((p,))
        assert verify_cut(model, stages, batch) < 1e-6
        assert verify_cut(model, [optimise(stage) for stage in stages], batch) < 1e-4


def test_an_addition_in_place_is_named_as_an_addition():
    def body(net, x):
        y = x * 2
        y += 1
        return y

    model = Net(body).eval()
    names = [point.name for point in PartitionedModel(model, torch.randn(2, 3, 8, 8), "layer").points]
    assert names[:4] == ["input", "mul", "add", "conv"]


def test_a_graph_that_took_a_shapes_number_says_so():
    batch = torch.randn(2, 3, 40, 36)
    assert PartitionedModel(Net(_branch).eval(), batch).fixed
    assert not PartitionedModel(Net(_named_results).eval(), batch).fixed


def test_tracing_leaves_the_models_attributes_as_they_were():
    model = Net(_counts).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    PartitionedModel(model, torch.randn(2, 3, 8, 8))
    assert not hasattr(model, "last_shape")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hooks_run_in_the_stages_too():
    model, batch = Net(lambda net, x: x).eval(), torch.randn(2, 3, 8, 8)
    model.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    assert verify_cut(model, PartitionedModel(model, batch).stages((1,)), batch) == 0


def _norm_of_weights(model):
    model.conv = nn.utils.parametrizations.weight_norm(model.conv)
    return model


def test_a_parametrised_layer_is_traced_through():
    model, batch = _norm_of_weights(Net(lambda net, x: x)).eval(), torch.randn(2, 3, 8, 8)
    assert verify_cut(model, PartitionedModel(model, batch).stages((1,)), batch) < 1e-6


class TestAutocast:
    @staticmethod
    def in_a_region(net, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = net.conv(x)
            with torch.autocast("cpu", enabled=False):
                x = net.norm(x.float())
            x = F.conv2d(x, torch.ones(3, 8, 1, 1))
        return x.float()

    def test_inside_forward_is_kept_in_every_stage(self):
        model, batch = Net(self.in_a_region).eval(), torch.randn(2, 3, 8, 8)
        partitioned = PartitionedModel(model, batch, "layer")
        assert "bfloat16" in [point.activation_dtype for point in partitioned.points]
        for p in range(len(partitioned.points)):
            stages = partitioned.stages((p,))
            assert verify_cut(model, stages, batch) == 0
            assert [stage.training for stage in stages] == [False, False]
        assert not torch.is_autocast_enabled("cpu")

    def test_as_a_decorator_of_forward_too(self):
        class Decorated(Net):
            @torch.autocast("cpu", dtype=torch.bfloat16)
            def forward(self, x):
                return self.head(x)

        model, batch = Decorated(None).eval(), torch.randn(2, 3, 8, 8)
        points = PartitionedModel(model, batch, "layer").points
        assert points[-1].activation_dtype == "bfloat16"
        assert verify_cut(model, PartitionedModel(model, batch).stages((1,)), batch) == 0


def _on_values(net, x):
    return x if x.sum() > 0 else -x


def _loop_on_values(net, x):
    return x * len(list(range(int(x.abs().max()))))


def _numpy(net, x):
    return torch.from_numpy(x.numpy())


def _own_mode(net, x):
    with BaseTorchFunctionMode():
        return x * 2


def _writes_into_a_constant(net, x):
    y = torch.zeros(2, 3, 8, 8)
    y[:] = x
    return y


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (_on_values, r"cannot be traced at .*test_tracing.py:\d+: `return x if x.sum\(\).*torch.where"),
        (_loop_on_values, r"cannot be traced at .*what a tensor holds.*leave that part out"),
        (_numpy, r"calls numpy\(\), which is no operation on tensors.*test_tracing.py:\d+"),
        (_own_mode, r"runs under BaseTorchFunctionMode.*test_tracing.py:\d+"),
        (_writes_into_a_constant, r"writes into a tensor.*new_zeros.*test_tracing.py:\d+"),
        (lambda net, x: torch.vmap(torch.sin)(x), r"cannot be traced.*test_tracing.py:\d+"),
        (lambda net, x: net.fc(x.flatten(1)), r"does not run on a batch of shape \(2, 3, 8, 8\): fc on \(2, 192\)"),
    ],
)
def test_what_cannot_be_brought_to_a_device_is_refused_with_the_line(body, match):
    with pytest.raises(ModelError, match=match):
        PartitionedModel(Net(body).eval(), torch.randn(2, 3, 8, 8))
