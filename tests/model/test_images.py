from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from pplib.errors import DataError
from pplib.model.data import load_images
from pplib.model.zoo import preprocessing


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """An archive of 5 x 4 training and 6 test images in CIFAR-10's own layout; returns its test images.

    torchvision checks the real archive's MD5 sums: here they are those of this small one.
    """
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    sums = {}

    def write(name: str, content: dict[str, object]) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, _ in CIFAR10.train_list:
        write(name, {"data": random.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 3]})
    test = random.integers(0, 256, (6, 3072), dtype=np.uint8)
    write("test_batch", {"data": test, "labels": [0, 1, 2, 3, 4, 5]})
    write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return test.reshape(6, 3, 32, 32).transpose(0, 2, 3, 1)


def test_synthetic_images_are_seeded_and_have_the_models_size_and_scale():
    first, second, other = (load_images("synthetic", 3, "inception_v3", seed=seed) for seed in (1, 1, 2))
    assert first.shape == (3, 3, 299, 299) and first.dtype == torch.float32
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert -2.2 < float(first.min()) < float(first.max()) < 2.7


def test_a_folder_of_pictures_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "b.jpg")
    Image.new("L", (30, 60), 128).save(tmp_path / "a.PNG")
    Image.new("RGBA", (64, 64), (0, 0, 255, 128)).save(tmp_path / "sub" / "c.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    images = load_images(f"folder:{tmp_path}", 3, "alexnet")
    assert images.shape == (3, 3, 224, 224)
    with Image.open(tmp_path / "b.jpg") as image:
        assert torch.equal(images[1], preprocessing("alexnet")(image.convert("RGB")))


def test_too_few_pictures_say_how_many_there_are(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="holds 1 JPEG and PNG images, num_images is 2"):
        load_images(f"folder:{tmp_path}", 2, "alexnet")


def test_an_unreadable_picture_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken.png: not readable as an image"):
        load_images(f"folder:{tmp_path}", 1, "alexnet")


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_cifar10_is_read_from_its_own_layout(tmp_path, monkeypatch, cifar10, by):
    monkeypatch.setenv("CIFAR10_PATH", str(tmp_path) if by == "environment" else "")
    images = load_images("cifar10", 2, "mobilenet_v2", cifar10_path=str(tmp_path) if by == "argument" else None)
    assert images.shape == (2, 3, 224, 224)
    assert torch.equal(images[1], preprocessing("mobilenet_v2")(Image.fromarray(cifar10[1])))
    with pytest.raises(DataError, match="holds 6 images, num_images is 7"):
        load_images("cifar10", 7, "mobilenet_v2", cifar10_path=str(tmp_path))


def test_cifar10_is_never_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR10_PATH", raising=False)
    with pytest.raises(DataError, match="set CIFAR10_PATH"):
        load_images("cifar10", 1, "alexnet")
    with pytest.raises(DataError, match="cifar10:download` fetches it"):
        load_images("cifar10", 1, "alexnet", cifar10_path=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        ("cifar100", "'cifar100' is unknown; nearest: cifar10"),
        ("folder:", "is unknown"),
        ("folder:/no/such", "no such folder"),
    ],
)
def test_an_unknown_dataset_lists_the_known(dataset, match):
    with pytest.raises(DataError, match=match):
        load_images(dataset, 1, "alexnet")


def test_no_images():
    with pytest.raises(DataError, match="num_images: expected an integer >= 1, got 0"):
        load_images("synthetic", 0, "alexnet")
