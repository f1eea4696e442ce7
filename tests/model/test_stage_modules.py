from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pplib.errors import PartitionError
from pplib.model.partition import PartitionedModel, combinations, split
from pplib.model.stages.optimise import optimise
from pplib.model.zoo import build_skeleton, load_model
from tests.helpers.proof import verify_cut


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "densenet121"])
def test_split_at_every_valid_point_equals_the_whole_model(name):
    model, batch = load_model(name), torch.randn(1, 3, 64, 64)
    partitioned = PartitionedModel(model, batch)
    for points in combinations(len(partitioned.points) - 1, 2):
        stages = partitioned.stages(points)
        assert verify_cut(model, stages, batch) < 1e-5
        assert verify_cut(model, [optimise(stage) for stage in stages], batch) < 1e-3


@pytest.mark.parametrize(("name", "step"), [("mobilenet_v2", 3), ("squeezenet1_1", 1), ("resnet18", 1)])
def test_every_layer_cut_equals_the_whole_model_and_no_stage_writes_into_its_input(name, step):
    model, batch = load_model(name), torch.randn(1, 3, 64, 64)
    partitioned = PartitionedModel(model, batch, "layer")
    every = len(partitioned.points) - 1
    for p in range(0, every + 1, step):
        stages = partitioned.stages((p,))
        assert verify_cut(model, stages, batch) < 1e-4
        with torch.inference_mode():
            for stage in (stages, [optimise(stage) for stage in stages]):
                between = stage[0](batch)
                kept_input, kept = batch.clone(), between.clone()
                first, second = stage[1](between), stage[1](between)
                assert torch.equal(first, second) and torch.equal(kept, between) and torch.equal(kept_input, batch)


@pytest.mark.parametrize("points", [(0, 0), (4, 9), (1, 2, 18), (19, 19, 19)])
def test_more_than_two_stages(points):
    model, batch = load_model("mobilenet_v2"), torch.randn(1, 3, 64, 64)
    stages = split(model, points, example_input=batch)
    assert len(stages) == len(points) + 1
    assert verify_cut(model, stages, batch) < 1e-5


def test_stages_keep_the_models_names_share_its_modules_and_cover_it():
    model = load_model("resnet18")
    stages = split(model, (3, 6))
    keys = [set(stage.state_dict()) for stage in stages]
    assert set.union(*keys) == set(model.state_dict()) and not keys[0] & keys[1]
    assert stages[0].conv1 is model.conv1


def test_stages_of_a_skeleton_are_independent():
    skeleton = build_skeleton("mobilenet_v2")
    partitioned = PartitionedModel(skeleton, torch.empty(2, 3, 224, 224, device="meta"))
    stage = partitioned.stage((5,), 0)
    real = {key: torch.ones(value.shape, dtype=value.dtype) for key, value in stage.state_dict().items()}
    stage.load_state_dict(real, assign=True)
    assert not any(tensor.is_meta for tensor in stage.state_dict().values())
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    assert all(tensor.is_meta for tensor in partitioned.stage((5,), 0).state_dict().values())


class InPlace(nn.Module):
    """In-place operations on the input, one of which something else relies on."""

    def __init__(self, body) -> None:
        super().__init__()
        self.body = body
        self.conv, self.relu, self.drop = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, x):
        return self.body(self, x)


def _discarded(model, x):
    x.mul_(2)
    return model.conv(x)


def _view_written(model, x):
    y = x.flatten(1)
    y.add_(1)
    return model.conv(x)


def _written_under_another_name(model, x):
    y = x.flatten(1)
    y += 1
    return model.conv(x)


@pytest.mark.parametrize(
    "body",
    [
        lambda model, x: model.conv(model.relu(x)),
        lambda model, x: model.conv(model.relu(model.drop(x))),
        lambda model, x: model.conv(nn.functional.relu(x, inplace=True)),
        lambda model, x: model.conv(x.relu_()),
        lambda model, x: model.conv(model.relu(x)) + x,
        lambda model, x: model.relu(model.conv(model.relu(x))),
        _discarded,
        _view_written,
        _written_under_another_name,
    ],
)
def test_in_place_operations_on_the_input_keep_their_meaning_and_leave_it_alone(body):
    model, batch = InPlace(body).eval(), torch.randn(1, 3, 4, 4)
    partitioned = PartitionedModel(model, batch, "layer")
    for p in range(len(partitioned.points)):
        kept = batch.clone()
        stages = partitioned.stages((p,))
        assert verify_cut(model, stages, batch) == 0
        with torch.inference_mode():
            stages[1](stages[0](batch))
        assert torch.equal(kept, batch)


def test_stages_of_other_weights_are_caught_by_the_proof():
    model, batch = InPlace(lambda model, x: model.conv(x)).eval(), torch.randn(1, 3, 4, 4)
    stages = split(copy.deepcopy(model), (0,), "layer", batch)
    with torch.no_grad():
        model.conv.bias += 1
    with pytest.raises(PartitionError, match="do not compute what the model computes"):
        verify_cut(model, stages, batch)


def test_a_batch_of_another_size_runs_through_the_stages():
    model = load_model("mobilenet_v3_small")
    stages = split(model, (4,), example_input=torch.randn(2, 3, 64, 64))
    assert verify_cut(model, stages, torch.randn(3, 3, 64, 64)) < 1e-5


def test_flattening_by_view_works_on_channels_last_activations():
    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.view(x.size(0), -1))

    model, batch = Flattens().eval(), torch.randn(2, 3, 8, 8)
    for p in (0, 1, 2):
        assert verify_cut(model, [optimise(s) for s in split(model, (p,), "layer", batch)], batch) < 1e-5


class TestOptimise:
    def test_folds_batch_norm_and_changes_nothing_in_the_stage(self):
        model = load_model("mobilenet_v2")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        (stage,) = split(model, ())
        fast = optimise(stage)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        assert fast.features.get_submodule("0.0").weight.is_contiguous(memory_format=torch.channels_last)
        after = model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert model.features[0][0].weight.is_contiguous()

    def test_does_not_fold_where_the_convolutions_output_is_needed(self):
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
                self.norm.running_mean.fill_(2.0)

            def forward(self, x):
                y = self.conv(x)
                return self.norm(y) + y

        model, batch = Both().eval(), torch.randn(1, 3, 2, 2)
        (stage,) = split(model, (), example_input=batch)
        assert any(isinstance(module, nn.BatchNorm2d) for module in optimise(stage).modules())
        assert verify_cut(model, [optimise(stage)], batch) < 1e-6

    def test_does_not_fold_into_a_convolution_that_is_used_twice(self):
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
                self.norm.running_mean.fill_(2.0)

            def forward(self, x):
                return self.conv(self.norm(self.conv(x)))

        model, batch = Twice().eval(), torch.randn(1, 3, 2, 2)
        assert verify_cut(model, [optimise(split(model, (), example_input=batch)[0])], batch) < 1e-6
