from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from pplib.errors import WeightsError
from pplib.model.partition import PartitionedModel, split
from pplib.model.stages.describe import build, describe
from pplib.model.weights.files import _TYPES, load_stage_weights, save_weights
from pplib.model.weights.stored import find_weights, verify_weights
from pplib.model.zoo import build_skeleton, input_shape, load_model
from tests.helpers.proof import verify_cut


class Peculiar(nn.Module):
    """Tied weights, a buffer outside the state dict, a plain tensor, a parameter used directly, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.randn(4), persistent=False)
        self.scale = nn.Parameter(torch.randn(4))
        self.plain = torch.randn(4)
        self.part = nn.Buffer(torch.randn(8)[:4])
        self.counter = nn.Buffer(torch.tensor(3))

    def forward(self, x):
        x = self.second(self.first(x) + self.shift) * self.scale
        return x + self.plain + self.part + self.counter + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_the_same_content_is_stored_once_under_its_hash(tmp_path):
    model = load_model("squeezenet1_1")
    first, second = save_weights(model, tmp_path), save_weights(model, tmp_path)
    assert first == second == find_weights(first.sha256, tmp_path)
    assert first.path == tmp_path / "weights" / f"{first.sha256}.safetensors"
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]
    verify_weights(first)
    assert save_weights(load_model("squeezenet1_1", seed=1), tmp_path) != first


def test_tracing_a_model_does_not_change_its_weights_file(tmp_path):
    model = Peculiar().eval()
    before = save_weights(model, tmp_path)
    PartitionedModel(model, torch.zeros(1, 4))
    assert save_weights(model, tmp_path) == before


@pytest.mark.parametrize("p", range(3))
def test_tied_unsaved_plain_and_direct_tensors_arrive_in_a_stage(tmp_path, p):
    model, batch = Peculiar().eval(), torch.randn(2, 4)
    partitioned = PartitionedModel(model, batch, "block")
    file = save_weights(model, tmp_path, partitioned.constants)
    assert len(partitioned.points) == 3
    stages = [build(describe(stage), torch.device("cpu")) for stage in partitioned.stages((p,))]
    for stage in stages:
        load_stage_weights(stage, file)
        assert not any(parameter.requires_grad for parameter in stage.parameters())
    assert verify_cut(model, stages, batch) == 0
    if p == 0:
        assert stages[1].first.weight is stages[1].second.weight


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_stages_of_a_skeleton_with_loaded_weights_equal_the_model(tmp_path, name):
    model, batch = load_model(name), torch.randn(1, *input_shape(name))
    file = save_weights(model, tmp_path)
    skeleton = PartitionedModel(build_skeleton(name), batch.to("meta"))
    assert skeleton.points == PartitionedModel(model, batch).points
    stages = skeleton.stages((len(skeleton.points) // 2,))
    for stage in stages:
        load_stage_weights(stage, file)
    assert verify_cut(model, stages, batch) < 1e-5
    held = [set(stage.state_dict()) for stage in stages]
    assert not held[0] & held[1]


def test_missing_weights_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=rf"looked for {tmp_path}/weights/abc.safetensors"):
        find_weights("abc", tmp_path)


def test_damaged_weights_are_found_out(tmp_path):
    file = save_weights(nn.Linear(3, 3), tmp_path)
    verify_weights(file)
    content = bytearray(file.path.read_bytes())
    content[-1] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"the content has the hash .*, expected .* is removed: start again"):
        verify_weights(file)
    assert not file.path.exists()


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-1] + b"\7", lambda _: b""])
def test_damaged_weights_are_made_anew(tmp_path, damage):
    model = nn.Linear(3, 3)
    file = save_weights(model, tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(damage(whole))
    assert save_weights(model, tmp_path) == file
    assert file.path.read_bytes() == whole


def test_weights_of_another_model_do_not_load(tmp_path):
    file = save_weights(load_model("squeezenet1_1"), tmp_path)
    example = torch.empty(1, 3, 224, 224, device="meta")
    other = PartitionedModel(build_skeleton("resnet18"), example).stage((3,), 0)
    with pytest.raises(WeightsError, match=r"lacks \d+ tensors of the stage: conv1.weight"):
        load_stage_weights(other, file)
    fewer = PartitionedModel(build_skeleton("squeezenet1_1", num_classes=10), example).stage((3,), 1)
    with pytest.raises(
        WeightsError, match=r"classifier.1.weight: expected \(10, 512, 1, 1\) torch.float32, got \(1000"
    ):
        load_stage_weights(fewer, file)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match="PARETOPIPE_CACHE"):
        save_weights(nn.Linear(1, 1), tmp_path)


def test_a_skeleton_has_no_weights_to_save(tmp_path):
    with pytest.raises(WeightsError, match="no value"):
        save_weights(build_skeleton("squeezenet1_1"), tmp_path)


class Buffer(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Buffer(value)


@pytest.mark.parametrize("name", list(_TYPES.values()))
def test_tensors_of_every_type_the_format_knows_arrive(tmp_path, name):
    value = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    file = save_weights(Buffer(value), tmp_path)
    stage = Buffer(torch.empty_like(value, device="meta"))
    load_stage_weights(stage, file)
    assert stage.table.dtype == value.dtype
    assert torch.equal(stage.table.view(torch.uint8), value.view(torch.uint8))


@pytest.mark.parametrize("kind", ["sparse", "complex128"])
def test_tensors_the_format_does_not_know_are_named(tmp_path, kind):
    value = torch.eye(2).to_sparse() if kind == "sparse" else torch.eye(2).to(torch.complex128)
    with pytest.raises(WeightsError, match=rf"Buffer: table is .*{kind}.*weights travel as dense tensors of float64"):
        save_weights(Buffer(value), tmp_path)


def test_a_worker_with_a_small_stage_of_vgg16_does_not_hold_the_rest(tmp_path):
    (stage,) = split(load_model("vgg16"), ())
    file = save_weights(stage, tmp_path)
    assert file.num_bytes > 500e6
    script = """
        import json, sys
        import psutil, torch, torchvision
        from pplib.model.partition import PartitionedModel
        from pplib.model.weights.files import _TYPES, load_stage_weights
        from pplib.model.weights.stored import find_weights
        from pplib.model.zoo import build_skeleton

        def resident():
            return psutil.Process().memory_info().rss

        torch.set_num_threads(1)
        before = resident()
        example = torch.empty(1, 3, 224, 224, device="meta")
        partitioned = PartitionedModel(build_skeleton("vgg16"), example)
        small = partitioned.stage((3,), 0)
        load_stage_weights(small, find_weights(sys.argv[1], None))
        after_small = resident()
        whole = partitioned.stage((31,), 0)
        load_stage_weights(whole, find_weights(sys.argv[1], None))
        print(json.dumps([after_small - before, resident() - before]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), file.sha256],
        capture_output=True,
        text=True,
        env={**os.environ, "PARETOPIPE_CACHE": str(tmp_path)},
        check=False,
        timeout=100,
    )
    file.path.unlink()
    assert done.returncode == 0, done.stderr
    small_bytes, whole_bytes = json.loads(done.stdout)
    assert small_bytes < 100e6
    assert whole_bytes > 500e6
