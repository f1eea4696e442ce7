from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn
from torchvision import models

from pplib.errors import ModelError, WeightsError
from pplib.model.zoo import build_skeleton, input_shape, load_model, preprocessing


@pytest.fixture
def users(monkeypatch):
    """A module of the user's, importable as `users_models`."""
    module = types.ModuleType("users_models")
    monkeypatch.setitem(sys.modules, "users_models", module)
    return module


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_same_seed_gives_identical_weights_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, second, other = (load_model("mobilenet_v3_small", seed=seed) for seed in (1, 1, 2))
    assert same(first, second) and not same(first, other)
    assert torch.equal(before, torch.get_rng_state())
    assert not first.training and not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "vit_b_16"])
def test_random_weights_give_outputs_of_a_sane_magnitude(name):
    with torch.inference_mode():
        output = load_model(name)(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert output.isfinite().all()
    assert 1e-3 < float(output.abs().max()) < 1e2
    assert not torch.allclose(output[0], output[1], atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenet_v2", "inception_v3", "googlenet", "regnet_y_400mf", "vit_h_14", "swin_t"])
def test_a_skeleton_has_the_names_and_shapes_of_the_architecture_and_no_memory(name):
    skeleton = build_skeleton(name)
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    output = skeleton(torch.empty(2, *input_shape(name), device="meta"))
    assert output.shape == (2, 1000) and not skeleton.training


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "swin_t"])
def test_a_skeleton_matches_the_loaded_model(name):
    loaded, skeleton = load_model(name, num_classes=7), build_skeleton(name, num_classes=7)
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (loaded, skeleton)]
    assert shapes[0] == shapes[1]


def test_default_weights_of_inception_undo_the_normalisation_in_the_skeleton_too():
    assert build_skeleton("inception_v3", "DEFAULT").transform_input
    assert not build_skeleton("inception_v3", "random").transform_input


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ModelError, match=r"unknown model 'mobilnet_v2'; nearest: mobilenet_v2"):
        load_model("mobilnet_v2")
    with pytest.raises(ModelError, match="unknown model"):
        build_skeleton("fasterrcnn_resnet50_fpn")


def test_input_size_and_preprocessing_are_those_of_the_default_weights():
    assert input_shape("inception_v3") == (3, 299, 299)
    assert input_shape("mobilenet_v2") == (3, 224, 224)
    from PIL import Image

    tensor = preprocessing("inception_v3")(Image.new("RGB", (400, 320), (124, 116, 104)))
    assert tensor.shape == (3, 299, 299) and tensor.dtype == torch.float32 and float(tensor.abs().max()) < 0.02


def test_a_users_function_is_a_model(users):
    def build(num_classes: int = 5) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(4, num_classes))  # fmt: skip

    build.input_shape = (1, 12, 12)
    users.build = build
    assert input_shape("users_models:build") == (1, 12, 12)
    assert load_model("users_models:build", num_classes=3)(torch.zeros(2, 1, 12, 12)).shape == (2, 3)


def test_a_users_trained_batch_norm_keeps_its_statistics(users):
    def build() -> nn.Module:
        model = nn.Sequential(nn.BatchNorm2d(3))
        model[0].running_mean.fill_(7.0)
        model[0].num_batches_tracked.fill_(100)
        return model

    users.build = build
    assert float(load_model("users_models:build")[0].running_mean[0]) == 7.0


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no_such_package:build", "cannot import 'no_such_package'.*PYTHONPATH"),
        ("users_models:bild", "has no function 'bild'; nearest: build"),
        ("users_models:returns_int", "expected the function to return a torch.nn.Module, got int"),
        ("users_models:fails", "the function failed: KeyError"),
    ],
)
def test_a_users_function_that_gives_no_model_says_why(users, name, match):
    users.build, users.returns_int, users.fails = nn.Identity, lambda: 3, lambda: {}["x"]
    with pytest.raises(ModelError, match=match):
        load_model(name)


def test_num_classes_for_a_function_that_takes_none(users):
    users.build = lambda: nn.Identity()
    with pytest.raises(ModelError, match=r"takes no `num_classes`"):
        load_model("users_models:build", num_classes=3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_local_file(tmp_path, suffix):
    import safetensors.torch

    source = load_model("squeezenet1_1", num_classes=4, seed=5)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
    assert same(source, load_model("squeezenet1_1", str(path), num_classes=4))


def test_weights_that_do_not_fit_list_the_tensors(tmp_path):
    state = load_model("squeezenet1_1").state_dict()
    del state["features.0.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_model("squeezenet1_1", str(tmp_path / "w.pth"), num_classes=10)
    for part in (
        "1 missing (features.0.weight)",
        "1 unexpected (extra)",
        "classifier.1.weight: expected (10, 512, 1, 1), got (1000, 512, 1, 1)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ("missing.pth", "no such file"),
        ("default", "expected `random`, `DEFAULT`, or a file ending in"),
        ("broken.pth", "broken.pth: is no checkpoint: it begins with b'nonsense'"),
        ("list.pth", "expected a state dict"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path, weights, match):
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    torch.save([1, 2], tmp_path / "list.pth")
    source = weights if weights == "default" else str(tmp_path / weights)
    with pytest.raises(WeightsError, match=match):
        load_model("squeezenet1_1", source)


class TestDefaultWeights:
    @pytest.fixture(autouse=True)
    def _own_hub(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        self.folder = tmp_path / "hub" / "checkpoints"
        self.folder.mkdir(parents=True)

    def put(self, name: str, state: dict[str, torch.Tensor]) -> None:
        url = models.get_model_weights(name).DEFAULT.url
        torch.save(state, self.folder / url.rpartition("/")[2])

    def test_are_taken_from_torchs_cache(self):
        pretrained = load_model("resnet18", seed=9)
        self.put("resnet18", pretrained.state_dict())
        assert same(pretrained, load_model("resnet18", "DEFAULT"))

    def test_with_other_classes_only_the_head_is_random(self):
        pretrained = load_model("resnet18", seed=9)
        self.put("resnet18", pretrained.state_dict())
        model = load_model("resnet18", "DEFAULT", num_classes=10)
        assert model.fc.weight.shape == (10, 512)
        assert torch.equal(model.conv1.weight, pretrained.conv1.weight)

    def test_auxiliary_heads_of_the_file_are_left_out(self):
        pretrained = models.googlenet(init_weights=False, aux_logits=True)
        self.put("googlenet", pretrained.state_dict())
        model = load_model("googlenet", "DEFAULT")
        assert torch.equal(model.fc.weight, pretrained.fc.weight)

    def test_old_names_of_densenet_are_translated(self):
        state = load_model("densenet121", seed=3).state_dict()
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for key, value in state.items()}
        self.put("densenet121", old)
        assert torch.equal(load_model("densenet121", "DEFAULT").state_dict()["classifier.weight"],
                           state["classifier.weight"])  # fmt: skip

    def test_a_failed_download_says_what_to_do_offline(self, monkeypatch):
        from urllib.error import URLError

        def refuse(*args, **kwargs):
            raise URLError("no route to host")

        monkeypatch.setattr(torch.hub, "urlopen", refuse)
        with pytest.raises(WeightsError, match=r"could not be downloaded.*offline, put that file into .*checkpoints"):
            load_model("resnet18", "DEFAULT")

    def test_are_not_for_a_users_function(self):
        with pytest.raises(WeightsError, match="DEFAULT is for torchvision's models"):
            load_model("torch.nn:Identity", "DEFAULT")
