"""The model room: images, decoded and preprocessed for a model before any clock starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from pplib.errors import DataError, nearest
from pplib.model.zoo import IMAGENET_MEAN, IMAGENET_STD, input_shape, preprocessing

KINDS = ("synthetic", "folder:PATH", "cifar10", "cifar10:download")
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_images(
    dataset: str, num_images: int, model: str, seed: int = 0, cifar10_path: str | None = None
) -> torch.Tensor:
    """Load `num_images` images as `model` takes them.

    Args:
        dataset: `synthetic` (seeded uniform pixels, normalised as ImageNet's), `folder:PATH` (the JPEG
            and PNG files below PATH, by name), `cifar10` (its test set; never downloaded), or
            `cifar10:download`.
        num_images: how many; always the first ones.
        model: its name; decides size and normalisation.
        seed: of synthetic images.
        cifar10_path: the folder that holds `cifar-10-batches-py`; None reads $CIFAR10_PATH.

    Returns:
        Shape (num_images, C, H, W), float32.

    Raises:
        DataError: unknown dataset, missing folder, unreadable file (named), or too few images.

    >>> load_images("synthetic", 2, "alexnet").shape
    torch.Size([2, 3, 224, 224])
    """
    if num_images < 1:
        raise DataError(f"num_images: expected an integer >= 1, got {num_images}")
    kind, _, rest = dataset.partition(":")
    if dataset == "synthetic":
        return _synthetic(num_images, input_shape(model), seed)
    if kind == "folder" and rest:
        images = _folder(Path(rest).expanduser(), num_images)
    elif dataset in ("cifar10", "cifar10:download"):
        images = _cifar10(cifar10_path or os.environ.get("CIFAR10_PATH"), num_images, download=bool(rest))
    else:
        raise DataError(f"dataset: {dataset!r} is unknown; {nearest(dataset, KINDS)}")
    transform = preprocessing(model)
    return torch.stack([transform(image) for image in images])


def _synthetic(count: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    pixels = torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))
    if shape[0] != len(IMAGENET_MEAN):
        return (pixels - 0.5) / 0.25
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


def _folder(folder: Path, count: int) -> Iterator[Image.Image]:
    if not folder.is_dir():
        raise DataError(f"dataset: folder:{folder}: no such folder (looked from {Path.cwd()})")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if len(paths) < count:
        raise DataError(
            f"dataset: folder:{folder}: holds {len(paths)} JPEG and PNG images, num_images is {count}: "
            "add images or lower num_images"
        )
    return (_open(path) for path in paths[:count])


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(f"dataset: {path}: not readable as an image: {exc}; repair or remove it") from exc


def _cifar10(root: str | None, count: int, download: bool) -> Iterator[Image.Image]:
    from torchvision.datasets import CIFAR10

    if not root:
        raise DataError("dataset: cifar10: set CIFAR10_PATH (in .env) to the folder that holds cifar-10-batches-py")
    try:
        data = CIFAR10(Path(root).expanduser(), train=False, download=download)
    except (RuntimeError, OSError) as exc:
        way = "the download failed" if download else "`dataset: cifar10:download` fetches it"
        raise DataError(f"dataset: cifar10: no whole cifar-10-batches-py in {root}: {exc} ({way})") from exc
    if len(data) < count:
        raise DataError(f"dataset: cifar10: holds {len(data)} images, num_images is {count}: lower num_images")
    return (data[i][0] for i in range(count))
