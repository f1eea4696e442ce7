from __future__ import annotations

import pytest
import torch

from pplib.errors import ModelError
from pplib.model.partition import partition_points
from pplib.model.profile import profile_model
from pplib.model.zoo import build_skeleton, load_model


def test_units_add_up_to_the_whole_model():
    model, batch = load_model("squeezenet1_1"), torch.randn(2, 3, 64, 64)
    units = profile_model(model, batch, repeats=2, warmup=0)
    points = partition_points(model, batch)[1:]
    assert [(unit.index, unit.label, unit.activation_bytes) for unit in units] == [
        (point.index, point.label, point.activation_bytes) for point in points
    ]
    assert sum(unit.params for unit in units) == sum(parameter.numel() for parameter in model.parameters())
    assert all(0 < unit.time_min_s <= unit.time_s <= unit.time_max_s for unit in units)
    assert all(unit.param_bytes == 4 * unit.params for unit in units)


def test_flops_are_twice_the_multiply_accumulates_of_the_batch():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(32, 5)).eval()
    units = profile_model(model, torch.randn(2, 3, 4, 4), repeats=1, warmup=0)
    assert [unit.flops for unit in units] == [2 * 2 * 8 * 2 * 2 * 3 * 9, 2 * 2 * 32 * 5]


@pytest.mark.parametrize("optimize", [True, False])
def test_the_models_mode_and_weights_are_left_as_they_were(optimize):
    model = load_model("squeezenet1_1")
    model.train()
    model.features.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    profile_model(model, torch.randn(1, 3, 64, 64), repeats=1, warmup=0, optimize=optimize)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_skeleton_cannot_be_measured():
    with pytest.raises(ModelError, match="no weights"):
        profile_model(build_skeleton("squeezenet1_1"), torch.empty(1, 3, 64, 64, device="meta"))
