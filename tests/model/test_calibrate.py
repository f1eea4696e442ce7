from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision import models

from pplib.errors import ModelError
from pplib.model.weights.calibrate import calibrate_batch_norm
from pplib.model.zoo import load_model

SHAPE = (3, 16, 16)


class Frozen(nn.BatchNorm2d):
    """Stays in eval mode whatever is asked."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class Fusing(nn.BatchNorm2d):
    """Doubles its weight whenever its mode changes, as layers do that fuse for inference."""

    def train(self, mode: bool = True) -> nn.Module:
        if mode != self.training:
            self.weight.data *= 2
        return super().train(mode)


def trained(layer: nn.Module) -> nn.Module:
    layer.running_mean.fill_(3.0)
    layer.running_var.fill_(4.0)
    return layer


def partly(mean: float, variance: float) -> nn.Module:
    layer = nn.BatchNorm2d(3)
    layer.running_mean[1], layer.running_var[2] = mean, variance
    return layer


def without_counter(layer: nn.Module) -> nn.Module:
    layer.num_batches_tracked = None
    return layer


def not_tracking(layer: nn.Module) -> nn.Module:
    layer.track_running_stats = False
    return layer


def counted(layer: nn.Module) -> nn.Module:
    layer.num_batches_tracked.fill_(100)
    return layer


KEPT = {
    "statistics set, counter 0": lambda: trained(nn.BatchNorm2d(3)),
    "statistics set, no counter": lambda: without_counter(trained(nn.BatchNorm2d(3))),
    "statistics set, counted": lambda: counted(trained(nn.BatchNorm2d(3))),
    "one mean set": lambda: partly(1e-6, 1.0),
    "one variance set": lambda: partly(0.0, 1.001),
    "frozen": lambda: Frozen(3),
    "frozen, statistics set": lambda: trained(Frozen(3)),
    "overrides train()": lambda: Fusing(3),
    "momentum None": lambda: trained(nn.BatchNorm2d(3, momentum=None)),
    "no statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "told not to track": lambda: not_tracking(nn.BatchNorm2d(3)),
    "not affine": lambda: trained(nn.BatchNorm2d(3, affine=False)),
    "sync": lambda: trained(nn.SyncBatchNorm(3)),
    "instance norm": lambda: nn.InstanceNorm2d(3, track_running_stats=True, affine=True),
    "group norm": lambda: nn.GroupNorm(3, 3),
    "layer norm": lambda: nn.LayerNorm(16),
}
ESTIMATED = {
    "plain": lambda: nn.BatchNorm2d(3),
    "no counter": lambda: without_counter(nn.BatchNorm2d(3)),
    "counted": lambda: counted(nn.BatchNorm2d(3)),
    "momentum None": lambda: nn.BatchNorm2d(3, momentum=None),
    "not affine": lambda: nn.BatchNorm2d(3, affine=False),
    "sync": lambda: nn.SyncBatchNorm(3),
}


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", KEPT)
def test_a_layer_that_is_not_untrained_keeps_all_its_values(kind):
    # An untrained layer before it, so that a batch does go through.
    model = nn.Sequential(nn.BatchNorm2d(3), KEPT[kind]()).eval()
    before, settings = snapshot(model[1]), {key: vars(model[1]).get(key) for key in ("momentum", "training")}
    calibrate_batch_norm(model, SHAPE)
    after = model[1].state_dict()
    assert list(before) == list(after) and all(torch.equal(before[key], after[key]) for key in before)
    assert settings == {key: vars(model[1]).get(key) for key in settings}


@pytest.mark.parametrize("kind", ESTIMATED)
def test_an_untrained_layer_gets_statistics_that_normalise_what_comes_in(kind):
    scale = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.constant_(scale.weight, 50.0)
    model = nn.Sequential(scale, ESTIMATED[kind]()).eval()
    layer, momentum = model[1], model[1].momentum
    before = snapshot(model)
    calibrate_batch_norm(model, SHAPE)
    assert float(layer.running_var.min()) > 1000 and layer.momentum == momentum and not layer.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        output = model(torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(9)))
    assert abs(float(output.mean())) < 0.1 and 0.8 < float(output.std()) < 1.2
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"1.running_mean", "1.running_var"}


def test_a_layer_used_twice_gets_the_mean_of_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            self.norm(x)
            return self.norm(input=x + 10)

    model = Twice().eval()
    calibrate_batch_norm(model, SHAPE)
    assert torch.allclose(model.norm.running_mean, torch.full((3,), 5.0), atol=0.2)


def test_a_model_in_double_or_half_precision_is_estimated_in_it():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(dtype).eval()
        calibrate_batch_norm(model, SHAPE, dtype=dtype)
        assert model[1].running_mean.any() and model[1].running_mean.dtype == dtype


def test_the_global_random_state_is_left_alone_by_a_model_that_draws():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).eval()
    model[1].train()
    before = torch.get_rng_state()
    calibrate_batch_norm(model, SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_does_not_run_says_on_what_and_keeps_no_hook():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(5, 5)).eval()
    with pytest.raises(ModelError, match=r"batch of shape \(4, 3, 16, 16\), torch.float32.*input_shape"):
        calibrate_batch_norm(model, SHAPE)
    assert not model[0]._forward_pre_hooks


@pytest.fixture(scope="module")
def resnet():
    """A ResNet18 whose statistics are those of data, as after training."""
    model = models.resnet18().eval()
    calibrate_batch_norm(model, (3, 64, 64), seed=7)
    return model


@pytest.mark.parametrize("how", ["file", "function"])
def test_a_trained_resnet_without_num_batches_tracked_comes_out_exactly(resnet, how, tmp_path):
    state = {key: value for key, value in resnet.state_dict().items() if not key.endswith("num_batches_tracked")}
    batch = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = resnet(batch)
        if how == "file":
            torch.save(state, tmp_path / "old.pth")
            found = load_model("resnet18", str(tmp_path / "old.pth"))
        else:
            found = models.resnet18().eval()
            found.load_state_dict(state, strict=False)
            assert not int(found.bn1.num_batches_tracked)
            calibrate_batch_norm(found, (3, 64, 64))
        assert torch.equal(found(batch), expected)


def test_a_file_whose_statistics_are_those_of_a_new_layer_is_not_altered(resnet, tmp_path):
    state = copy.deepcopy(resnet.state_dict())
    state["bn1.running_mean"].zero_()
    state["bn1.running_var"].fill_(1.0)
    torch.save(state, tmp_path / "new.pth")
    found = load_model("resnet18", str(tmp_path / "new.pth"))
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
