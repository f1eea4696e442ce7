from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pplib.errors import ModelError, PartitionError
from pplib.model.partition import (
    PartitionedModel,
    combinations,
    partition_points,
    split,
    validate_points,
)
from pplib.model.points import even_points
from pplib.model.zoo import build_skeleton, input_shape, load_model
from tests.helpers.proof import verify_cut


def skeleton_points(name: str, granularity: str = "block"):
    example = torch.empty(2, *input_shape(name), device="meta")
    return partition_points(build_skeleton(name), example, granularity)


@pytest.mark.parametrize(
    ("name", "last", "some"),
    [
        ("mobilenet_v2", 19, {1: "features.0", 7: "features.6", 18: "features.17"}),
        ("alexnet", 13, {1: "features.0", 12: "features.11"}),
        ("vgg16", 31, {1: "features.0", 30: "features.29"}),
        ("resnet18", 9, {1: "layer1.0", 8: "layer4.1"}),
        ("resnet50", 17, {1: "maxpool", 2: "layer1.0", 16: "layer4.1"}),
        ("inception_v3", 20, {1: "Conv2d_1a_3x3", 8: "Mixed_5b", 19: "avgpool"}),
        ("resnet34", 17, {1: "layer1.0", 16: "layer4.2"}),
        ("vgg11_bn", 29, {1: "features.0"}),
        ("efficientnet_b0", 20, {2: "features.1.0", 19: "avgpool"}),
        ("densenet121", 10, {3: "features.denseblock1", 4: "features.transition1"}),
        ("convnext_tiny", 24, {2: "features.1.0"}),
        ("vit_b_16", 14, {1: "conv_proj", 5: "encoder.layers.encoder_layer_3"}),
        ("regnet_y_400mf", 19, {1: "stem", 2: "trunk_output.block1.block1-0"}),
        ("swin_t", 18, {4: "features.2"}),
        ("shufflenet_v2_x1_0", 20, {3: "stage2.0"}),
        ("squeezenet1_0", 14, {3: "features.3"}),
        ("googlenet", 18, {6: "inception3a"}),
    ],
)
def test_blocks_are_numbered_as_the_literature_does(name, last, some):
    points = skeleton_points(name)
    assert [point.index for point in points] == list(range(last + 1))
    assert (points[0].name, points[-1].name) == ("input", "output")
    assert {index: points[index].name for index in some} == some
    assert len({point.name for point in points}) == len(points)


@pytest.mark.parametrize(
    ("name", "count"),
    [("mobilenet_v2", 74), ("resnet18", 24), ("resnet50", 40), ("vgg16", 41), ("alexnet", 23), ("inception_v3", 33)],
)
def test_layer_cuts_are_counted_with_both_baselines(name, count):
    points = skeleton_points(name, "layer")
    assert len(points) == count
    assert [point.index for point in points] == list(range(count))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "vit_b_16"])
def test_every_block_cut_is_a_layer_cut(name):
    layers = {(point.activation_shape, point.activation_bytes) for point in skeleton_points(name, "layer")}
    assert {(point.activation_shape, point.activation_bytes) for point in skeleton_points(name)} <= layers


def test_a_point_tells_what_crosses_it():
    point = skeleton_points("mobilenet_v2")[7]
    assert (point.label, point.activation_shape, point.activation_dtype) == ("P7", (2, 32, 28, 28), "float32")
    assert point.activation_bytes == 2 * 32 * 28 * 28 * 4


class Counts(nn.Module):
    """A batch size that lives on from the input to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        batch = x.shape[0]
        x = self.second(self.first(x))
        return self.third(x).reshape(batch, -1)


def test_a_number_alive_across_makes_a_cut_invalid():
    points = partition_points(Counts().eval(), torch.zeros(2, 3, 4, 4), "layer")
    assert [point.name for point in points] == ["input", "output"]


def test_weights_used_directly_do_not_count_as_alive():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 3, 1), nn.Parameter(torch.ones(3, 1, 1))
            self.register_buffer("shift", torch.ones(6), persistent=False)

        def forward(self, x):
            scale = self.scale + self.shift.view(2, 3).sum(0).view(3, 1, 1)
            x = self.conv(x)
            return torch.relu(x) * scale

    model = Scaled().eval()
    points = partition_points(model, torch.zeros(1, 3, 2, 2), "layer")
    assert [point.name for point in points] == ["input", "conv", "relu", "output"]
    batch = torch.randn(2, 3, 2, 2)
    for p in range(4):
        assert verify_cut(model, split(model, (p,), "layer", example_input=batch), batch) == 0


def test_arguments_with_a_default_are_constants():
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x, mask=None, scale=2.0):
            x = self.fc(x) * scale
            return x if mask is None else x * mask

    model, batch = Optional().eval(), torch.randn(2, 3)
    assert verify_cut(model, split(model, (1,), "layer", example_input=batch), batch) == 0


class TestUntraceable:
    def test_control_flow_names_the_line_and_what_to_do(self):
        class Branches(nn.Module):
            def forward(self, x):
                if x.sum() > 0:
                    return x
                return -x

        with pytest.raises(
            ModelError, match=r"Branches cannot be traced.*test_cuts.py:\d+: `if x.sum\(\) > 0:`.*torch.where"
        ):
            partition_points(Branches().eval(), torch.zeros(1, 3))

    @pytest.mark.parametrize(
        ("make", "match"),
        [(lambda x: (x, x), "returns a tuple of 2"), (lambda x: {"out": x}, "a dict with the keys out")],
    )
    def test_more_than_one_output(self, make, match):
        class Many(nn.Module):
            def forward(self, x):
                return make(x)

        with pytest.raises(ModelError, match=match):
            partition_points(Many().eval(), torch.zeros(1, 3))

    def test_two_inputs(self):
        class Two(nn.Module):
            def forward(self, x, y):
                return x + y

        with pytest.raises(ModelError, match="must take one tensor, it takes 2"):
            partition_points(Two().eval(), torch.zeros(1, 3))

    def test_training_mode(self):
        with pytest.raises(ModelError, match="training mode"):
            partition_points(nn.Linear(3, 3), torch.zeros(1, 3))

    def test_a_batch_of_the_wrong_shape_names_the_module(self):
        with pytest.raises(ModelError, match=r"does not run on a batch of shape \(1, 5\): fc on \(1, 5\)"):
            model = nn.Sequential()
            model.fc = nn.Linear(3, 3)
            partition_points(model.eval(), torch.zeros(1, 5))


@pytest.mark.parametrize("points", [(1,), (18,), (0,), (19,), (1, 2), (0, 0), (19, 19), (1, 5, 18), ()])
def test_valid_points(points):
    validate_points(points, 19)


@pytest.mark.parametrize("points", [(20,), (-1,), (0, 1), (1, 19), (5, 5), (6, 5), (0, 19)])
def test_points_that_are_not_valid_list_the_valid_ones(points):
    with pytest.raises(PartitionError, match=r"valid.*(0, 1, 2, .*19|1\.\.18)"):
        validate_points(points, 19)


def test_more_partitions_than_anyone_measures_are_refused_before_they_are_listed():
    with pytest.raises(PartitionError, match=r"74 units over 10 devices can be cut in \d{11} ways, expected at most"):
        combinations(74, 10)


def test_combinations_are_exactly_the_valid_points():
    import itertools

    for num_stages in (2, 3, 4):
        valid = []
        for points in itertools.product(range(7), repeat=num_stages - 1):
            try:
                validate_points(points, 6)
            except PartitionError:
                continue
            valid.append(points)
        assert sorted(combinations(6, num_stages)) == sorted(valid)


@given(st.integers(2, 200), st.integers(2, 8))
def test_even_points_differ_by_at_most_one_unit(units, stages):
    if units < stages:
        with pytest.raises(PartitionError, match="at least"):
            even_points(units, stages)
        return
    sizes = [b - a for a, b in itertools.pairwise([0, *even_points(units, stages), units])]
    assert sum(sizes) == units
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    with pytest.raises(PartitionError, match="expected 2 or more"):
        even_points(units, 1)


def test_unknown_granularity():
    with pytest.raises(PartitionError, match="granularity: 'blocks' is unknown; nearest: block"):
        PartitionedModel(nn.Linear(1, 1).eval(), torch.zeros(1, 1), "blocks")


def test_a_wrong_stage_fails_the_proof():
    model = load_model("squeezenet1_1")
    batch = torch.randn(1, 3, 64, 64)
    stages = split(model, (3,), example_input=batch)
    other = split(load_model("squeezenet1_1", seed=1), (3,), example_input=batch)
    with pytest.raises(PartitionError, match="do not compute what the model computes"):
        verify_cut(model, [stages[0], other[1]], batch)


def test_a_wrong_stage_fails_the_proof_also_where_all_outputs_are_small():
    """Of 1000 classes each has a probability of about 0.001: what is compared is not absolute."""

    def classifier(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1000), nn.Softmax(1)).eval()

    model, batch = classifier(0), torch.randn(2, 3, 2, 2)
    stages, other = (split(one, (2,), "layer", example_input=batch) for one in (model, classifier(1)))
    assert verify_cut(model, stages, batch) < 1e-8
    with pytest.raises(PartitionError, match="do not compute what the model computes"):
        verify_cut(model, [stages[0], other[1]], batch)
