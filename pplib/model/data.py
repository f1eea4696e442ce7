"""The model room: images, decoded and preprocessed for a model before any clock starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
from PIL import Image

from pplib.config import input_path, looked_in
from pplib.errors import DataError, nearest
from pplib.model.pictures import as_mode, find_pictures, open_picture
from pplib.model.zoo import IMAGENET_MEAN, IMAGENET_STD, input_shape, own_preprocessing, preprocessing

KINDS = ("synthetic", "folder:PATH", "cifar10", "cifar10:download")


def load_images(
    dataset: str,
    num_images: int,
    model: str,
    seed: int = 0,
    cifar10_path: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Load `num_images` images as `model` takes them.

    A model of one channel gets grey pictures, all others RGB ones. Pictures are turned as their EXIF
    orientation says, what is transparent shows white, 16-bit grey is scaled to 8 bits (65535 is white),
    CMYK and palettes are converted, and of several frames the first is taken.

    Args:
        dataset: `synthetic` (seeded uniform pixels, normalised as ImageNet's, or 0..255 in uint8),
            `folder:PATH` (the pictures below PATH: JPEG, PNG, WebP, BMP, TIFF, GIF, ...; hidden files and folders
            are left out; in the order of `all_pictures`), `cifar10` (its test set; never downloaded), or
            `cifar10:download`.
        num_images: how many; always the first ones.
        model: its name; decides size, channels and normalisation. A function's own `preprocessing` takes one
            PIL image (mode `L` for one channel, else `RGB`) and returns a tensor of its `input_shape`.
        seed: of synthetic images.
        cifar10_path: the folder that holds `cifar-10-batches-py`; None reads $CIFAR10_PATH.
        dtype: what the model takes; an own `preprocessing` must return it, all else is converted.

    Returns:
        Shape (num_images, C, H, W), of `dtype`.

    Raises:
        DataError: unknown dataset, missing folder, unreadable file (named), too few images, or a
            preprocessing that fails or returns something else.

    >>> load_images("synthetic", 2, "alexnet").shape
    torch.Size([2, 3, 224, 224])
    """
    shape = input_shape(model)
    if num_images < 1:
        raise DataError(f"num_images: expected an integer >= 1, got {num_images}")
    _check_memory(num_images, shape, dtype)
    if dataset == "synthetic":
        return synthetic_images(num_images, shape, seed, dtype)
    images = _images(dataset, num_images, "L" if shape[0] == 1 else "RGB", cifar10_path)
    transform = preprocessing(model)
    loaded = torch.empty((num_images, *shape), dtype=dtype)
    for i, (name, image) in enumerate(images):
        loaded[i] = _preprocessed(transform, name, image, model, shape, dtype)
    return loaded


def synthetic_images(count: int, shape: tuple[int, int, int], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Seeded uniform pixels, (count, C, H, W): bytes as they are, all else normalised as ImageNet's."""
    pixels = torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))
    if dtype == torch.uint8:
        return (pixels * 256).to(dtype)
    if shape[0] != len(IMAGENET_MEAN):
        return ((pixels - 0.5) / 0.25).to(dtype)
    scaled = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return scaled.to(dtype)


def check_images(
    dataset: str, num_images: int, model: str, cifar10_path: str | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Make sure that `load_images` will find its pictures, by the first of them; takes the same arguments.

    Raises:
        DataError: as `load_images`, for the first image.
    """
    shape = input_shape(model)
    _check_memory(num_images, shape, dtype)
    if dataset != "synthetic":
        name, image = next(_images(dataset, num_images, "L" if shape[0] == 1 else "RGB", cifar10_path))
        _preprocessed(preprocessing(model), name, image, model, shape, dtype)


def _check_memory(num_images: int, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Raise DataError where the preprocessed images, all of which are kept, would not fit into this machine."""
    needed, free = num_images * math.prod(shape) * dtype.itemsize, psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"num_images: {num_images} images of shape {shape} take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} "
            "GB are free here: lower num_images"
        )


def _images(dataset: str, count: int, mode: str, cifar10_path: str | None) -> Iterator[tuple[str, Image.Image]]:
    """The first images of a dataset with their names, decoded one by one."""
    kind, _, rest = dataset.partition(":")
    if kind == "folder" and rest:
        return ((str(path), open_picture(path, mode)) for path in find_pictures(rest, count))
    if is_cifar10(dataset):
        data = open_cifar10(cifar10_path, count, download=bool(rest))
        return ((f"cifar10[{i}]", as_mode(data[i][0], mode)) for i in range(count))
    raise DataError(f"dataset: {dataset!r} is unknown; {nearest(dataset, KINDS)}")


def _preprocessed(
    transform: Callable[[Any], torch.Tensor],
    name: str,
    image: Image.Image,
    model: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
) -> torch.Tensor:
    given = f"one PIL image of mode {image.mode}, {image.width} x {image.height}"
    try:
        made: object = transform(image)
    except Exception as exc:
        cause = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
        raise DataError(
            f"{model}: its preprocessing failed on {name}: {cause}; it is "
            f"given {given}, and returns a tensor of shape {shape}: see the function's attribute `preprocessing`"
        ) from exc
    if not isinstance(made, torch.Tensor):
        got = type(made).__name__
    elif tuple(made.shape) != shape or (made.dtype != dtype and own_preprocessing(model)):
        got = f"shape {tuple(made.shape)}, {made.dtype}"
    else:
        return made.detach().to(dtype)
    raise DataError(
        f"{model}: its preprocessing made of {name} {got}, expected a tensor of shape {shape} (the function's "
        f"`input_shape`), {dtype}: mend the function's attribute `preprocessing`; it is given {given}"
    )


def is_cifar10(dataset: str) -> bool:
    """Whether a dataset is CIFAR-10's test set."""
    return dataset in ("cifar10", "cifar10:download")


def open_cifar10(root: str | None, count: int, download: bool) -> Any:
    """torchvision's CIFAR-10 test set, below `root` (None reads $CIFAR10_PATH), which has at least `count` images.

    Raises:
        DataError: no folder is named, it is not there or not whole, or holds fewer images.
    """
    from torchvision.datasets import CIFAR10

    root = root or os.environ.get("CIFAR10_PATH")
    if not root:
        raise DataError("dataset: cifar10: set CIFAR10_PATH (in .env) to the folder that holds cifar-10-batches-py")
    try:
        data = CIFAR10(input_path(root), train=False, download=download)
    except (RuntimeError, OSError) as exc:
        way = "the download failed" if download else "`dataset: cifar10:download` fetches it"
        raise DataError(
            f"dataset: cifar10: no whole cifar-10-batches-py in {root}{looked_in(root)}: {exc} ({way})"
        ) from exc
    if len(data) < count:
        raise DataError(f"dataset: cifar10: holds {len(data)} images, num_images is {count}: lower num_images")
    return data
