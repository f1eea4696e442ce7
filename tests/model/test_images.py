from __future__ import annotations

import hashlib
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from torch import nn
from torchvision.datasets import CIFAR10

from pplib.errors import DataError, ModelError
from pplib.model.data import check_images, load_images
from pplib.model.labels import load_labels
from pplib.model.pictures import open_picture, suffixes
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
    with pytest.raises(DataError, match=r"holds 1 images, num_images is 2: add images \(\.jpg, "):
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


def test_cifar10_has_labels_of_its_own(tmp_path, cifar10):
    found = load_labels("cifar10", 4, str(tmp_path))
    assert found.classes.tolist() == [0, 1, 2, 3] and found.names[:2] == ("class 0", "class 1")
    with pytest.raises(DataError, match="holds 6 images, num_images is 7"):
        load_labels("cifar10", 7, str(tmp_path))


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


@pytest.fixture
def users(monkeypatch):
    """A user's function, `users_models:build`, whose attributes a test sets."""
    module = types.ModuleType("users_models")
    module.build = lambda: nn.Identity()
    monkeypatch.setitem(sys.modules, "users_models", module)
    return module.build


def to_array(image):
    return torch.from_numpy(np.asarray(image, dtype=np.float32).copy())


@pytest.mark.parametrize(
    "name", ["._a.jpg", ".hidden.png", ".ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg", "x/.git/a.png"]
)
def test_hidden_files_and_folders_are_left_out(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"a resource fork, no picture")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "b.png")
    assert len(load_images(f"folder:{tmp_path}", 1, "alexnet")) == 1
    with pytest.raises(DataError, match=r"holds 1 images \(and 1 hidden, not read\)"):
        load_images(f"folder:{tmp_path}", 2, "alexnet")


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path):
    (tmp_path / "real").mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "real" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cats").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert len(load_images(f"folder:{tmp_path / 'set'}", 1, "alexnet")) == 1
    with pytest.raises(DataError, match="holds 1 images, num_images is 2"):
        check_images(f"folder:{tmp_path / 'set'}", 2, "alexnet")


def test_a_picture_that_is_a_link_to_nowhere_is_named_before_any_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    check_images(f"folder:{tmp_path}", 1, "alexnet")
    with pytest.raises(DataError, match=r"b\.jpg: is a link to .*gone\.jpg, which is not there"):
        check_images(f"folder:{tmp_path}", 2, "alexnet")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git-LFS pointer, not the file itself"),
        (b"<!DOCTYPE html>", "is an HTML page"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, r"it begins with b'\\x00.*ftypheic', which none of JPEG, .* does"),
    ],
)
def test_what_a_picture_is_instead_is_said(tmp_path, content, told):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg: not readable as an image: {told}"):
        check_images(f"folder:{tmp_path}", 1, "alexnet")


def test_a_folder_that_is_itself_hidden_is_read(tmp_path):
    (tmp_path / ".cache").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / ".cache" / "a.png")
    check_images(f"folder:{tmp_path / '.cache'}", 1, "alexnet")


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    for name in ("a.heic", "b.HEIC", "c.txt", "README", ".DS_Store"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"0 images \(and 2 .heic, 1 .*, 1 .*, 1 hidden, not read\), num_images"):
        load_images(f"folder:{tmp_path}", 1, "alexnet")
    with pytest.raises(DataError, match="a file, expected a folder"):
        load_images(f"folder:{tmp_path / 'c.txt'}", 1, "alexnet")


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"])
def test_every_usual_kind_of_picture_is_read(tmp_path, suffix):
    assert suffix.lower() in suffixes()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / f"a{suffix}")
    pixels = np.asarray(open_picture(tmp_path / f"a{suffix}"))
    assert pixels.shape == (32, 32, 3) and abs(pixels.astype(int) - (200, 30, 30)).max() < 8


def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path):
    upright = Image.new("RGB", (40, 20), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 10, 20))  # white at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen, turn it a quarter clockwise
    upright.save(tmp_path / "a.png", exif=exif)
    seen = np.asarray(open_picture(tmp_path / "a.png"))
    assert seen.shape == (40, 20, 3)
    assert seen[:10].min() == 255 and seen[10:].max() == 0  # white at the top


@pytest.mark.parametrize("kind", ["png", "tif", "tif, 32 bits"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path, kind):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = tmp_path / f"a.{kind[:3]}"
    Image.fromarray(values.astype(np.int32) if "32" in kind else values).save(path)
    assert np.asarray(open_picture(path, "L")).tolist() == [[0, 1, 128, 255]]
    assert np.asarray(open_picture(path))[0, 2].tolist() == [128] * 3


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[-1]]), np.int32([[70000]])])
def test_pixels_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif: not readable as an image: pixels .*expected 8 or 16"):
        load_images(f"folder:{tmp_path}", 1, "alexnet")


def test_what_is_transparent_shows_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (8, 8), (7, 0)).save(tmp_path / "la.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    palette = Image.new("P", (8, 8), 5)
    palette.putpalette(bytes(range(18)))
    palette.save(tmp_path / "p.png", transparency=5)
    palette.save(tmp_path / "p.gif", transparency=5)
    palette.save(tmp_path / "bytes.png", transparency=bytes([255] * 5) + b"\0")
    for path in tmp_path.iterdir():
        assert np.asarray(open_picture(path)).min() == 255, path
        assert np.asarray(open_picture(path, "L")).min() == 255, path
    Image.new("RGBA", (8, 8), (0, 0, 255, 128)).save(tmp_path / "half.png")
    assert np.asarray(open_picture(tmp_path / "half.png"))[0, 0].tolist() == [127, 127, 255]


def test_cmyk_palettes_and_single_bits_are_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    red = np.asarray(open_picture(tmp_path / "a.tif"))[0, 0]
    assert red[0] > 200 and red[1] < 60
    Image.new("1", (8, 8), 1).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8), (0, 255, 0)).quantize(4).save(tmp_path / "c.png")
    assert np.asarray(open_picture(tmp_path / "b.png"))[0, 0].tolist() == [255] * 3
    assert np.asarray(open_picture(tmp_path / "c.png"))[0, 0].tolist() == [0, 255, 0]


def test_of_several_frames_the_first_is_taken(tmp_path):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for name in ("a.gif", "b.tif", "c.webp"):
        first.save(
            tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "w" in name else {})
        )
        assert np.asarray(open_picture(tmp_path / name))[0, 0, 0] > 240


def test_a_cut_or_huge_picture_is_named(tmp_path, monkeypatch):
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-900])
    Image.new("L", (64, 64)).save(tmp_path / "huge.png")
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    (tmp_path / "empty.gif").touch()
    for name, limit in (("cut.jpg", 10**6), ("huge.png", 1000), ("empty.gif", 10**6)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"{name}: not readable as an image: .*; repair or remove it"):
            open_picture(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert open_picture(tmp_path / "large.png").size == (64, 64)


def test_odd_metadata_is_no_warning(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 99  # no orientation there is
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert open_picture(tmp_path / "a.tif").size == (8, 8)


def test_a_model_of_one_channel_gets_grey_pictures(tmp_path, users):
    Image.new("RGB", (40, 30), (255, 255, 255)).save(tmp_path / "a.png")
    users.input_shape = (1, 28, 28)
    images = load_images(f"folder:{tmp_path}", 1, "users_models:build")
    assert images.shape == (1, 1, 28, 28) and float(images.min()) == pytest.approx(2.0)
    modes = []
    users.preprocessing = lambda image: modes.append(image.mode) or to_array(image.resize((28, 28)))[None]
    assert load_images(f"folder:{tmp_path}", 1, "users_models:build").shape == (1, 1, 28, 28)
    assert modes == ["L"]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_a_model_of_other_channels_is_told_of_the_attribute_preprocessing(tmp_path, users, channels):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    users.input_shape = (channels, 8, 8)
    with pytest.raises(
        ModelError, match=rf"takes {channels} channels.*attribute `preprocessing`.*\({channels}, 8, 8\)"
    ):
        check_images(f"folder:{tmp_path}", 1, "users_models:build")
    users.preprocessing = lambda image: torch.zeros(channels, 8, 8)
    assert load_images(f"folder:{tmp_path}", 1, "users_models:build").shape == (1, channels, 8, 8)
    del users.preprocessing
    assert load_images("synthetic", 1, "users_models:build").shape == (1, channels, 8, 8)


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (lambda image: torch.zeros(3, 9, 8), r"shape \(3, 9, 8\), torch.float32"),
        (lambda image: torch.zeros(1, 3, 8, 8), r"shape \(1, 3, 8, 8\)"),
        (lambda image: torch.zeros(8, 8, 3), r"shape \(8, 8, 3\)"),
        (lambda image: torch.zeros(3, 8, 8, dtype=torch.float64), r"shape .*, torch.float64"),
        (lambda image: torch.zeros(3, 8, 8, dtype=torch.uint8), r"shape .*, torch.uint8"),
        (lambda image: np.zeros((3, 8, 8)), "ndarray"),
        (lambda image: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("call", [check_images, load_images])
def test_a_preprocessing_that_makes_something_else_is_told_what_was_expected(tmp_path, users, made, got, call):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    users.input_shape, users.preprocessing = (3, 8, 8), made
    expected = rf"made of .*a.png {got}.*, expected a tensor of shape \(3, 8, 8\) .*torch.float32.*`preprocessing`"
    with pytest.raises(DataError, match=expected):
        call(f"folder:{tmp_path}", 1, "users_models:build")


def test_a_preprocessing_that_fails_is_told_with_the_file_and_the_cause(tmp_path, users):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    users.preprocessing = lambda image: image.no_such_method()
    with pytest.raises(DataError, match=r"failed on .*a.png: AttributeError: .*no_such_method.*mode RGB, 40 x 30"):
        check_images(f"folder:{tmp_path}", 1, "users_models:build")


def test_a_preprocessing_that_reuses_its_tensor_does_not_mix_images(tmp_path, users):
    for i in range(2):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / f"{i}.png")
    buffer = torch.zeros(1, 8, 8)
    users.input_shape = (1, 8, 8)
    users.preprocessing = lambda image: buffer.copy_(to_array(image)[None])
    images = load_images(f"folder:{tmp_path}", 2, "users_models:build")
    assert [float(image.mean()) for image in images] == [0, 10]


def test_cifar10_for_a_model_of_one_channel_is_grey(tmp_path, users, cifar10):
    users.input_shape = (1, 32, 32)
    assert load_images("cifar10", 2, "users_models:build", cifar10_path=str(tmp_path)).shape == (2, 1, 32, 32)


def test_no_images():
    with pytest.raises(DataError, match="num_images: expected an integer >= 1, got 0"):
        load_images("synthetic", 0, "alexnet")


MADE_TO_HURT = {
    "PostScript": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"), ""),
    "a Photoshop file": (lambda path: path.write_bytes(b"8BPS\0\1" + bytes(200)), ""),
    "a FIFO": (os.mkfifo, "no ordinary file"),
    "176 megapixels": (lambda path: path.write_bytes(a_large_png()), r"16000 x 11000 pixels, expected at most 64 mil"),
    "no header": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), ""),
    "a chunk that ends too soon": (lambda path: path.write_bytes(a_large_png()[:30]), ""),
    "a deep TIFF": (lambda path: path.write_bytes(b"II*\0\x08\0\0\0" + b"\xff" * 500), ""),
}


def a_large_png():
    """The header of a picture of 176 megapixels; what follows need not be there."""
    header = struct.pack(">IIBBBBB", 16000, 11000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("kind", MADE_TO_HURT)
def test_a_file_that_is_made_to_hurt_is_one_error_that_names_it(tmp_path, monkeypatch, kind, suffix):
    monkeypatch.setattr("subprocess.Popen", None)  # no other program is started
    make, told = MADE_TO_HURT[kind]
    make(tmp_path / f"a{suffix}")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"a\{suffix}: not readable as an image: .*{told}"):
            open_picture(tmp_path / f"a{suffix}")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_more_images_than_memory_are_refused_before_the_first_is_read(tmp_path):
    for load in (load_images, check_images):
        with pytest.raises(DataError, match=r"num_images: 1000000 images of shape .* GB are free here: lower"):
            load("synthetic", 1_000_000, "alexnet")
