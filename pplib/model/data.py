"""Images: decoded and preprocessed for the model before any clock starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision
from PIL import Image, UnidentifiedImageError

from pplib.errors import DataError
from pplib.model.zoo import input_shape, preprocessing

KINDS = ("synthetic", "folder:PATH", "cifar10", "cifar10:download")
_SUFFIXES = {".jpg", ".jpeg", ".png"}


def load_images(
    dataset: str, num_images: int, model: str, seed: int = 0, cifar10_path: str | None = None
) -> torch.Tensor:
    """Load `num_images` images as the model takes them.

    Args:
        dataset: "synthetic" (seeded noise of a normalised image's scale), "folder:PATH" (JPEG and PNG
            files below it, in order of their paths), "cifar10" (its test set, where `cifar10_path` or
            $CIFAR10_PATH says; never downloaded), or "cifar10:download".
        num_images: how many, from the first.
        model: its name; decides size and normalisation.
        seed: of synthetic images.
        cifar10_path: the folder that holds `cifar-10-batches-py`.

    Returns:
        Shape (num_images, C, H, W), float32.

    Raises:
        DataError: unknown dataset, missing folder, an unreadable file, or too few images.
    """
    kind, _, rest = dataset.partition(":")
    if dataset == "synthetic":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((num_images, *input_shape(model)), generator=generator)
    if kind == "folder" and rest:
        return _preprocess(_folder(Path(rest).expanduser(), num_images), model)
    if dataset in ("cifar10", "cifar10:download"):
        return _preprocess(_cifar10(cifar10_path, num_images, rest == "download"), model)
    raise DataError(f"dataset: expected one of {', '.join(KINDS)}, got {dataset!r}")


def _preprocess(images: Iterable[Image.Image], model: str) -> torch.Tensor:
    transform = preprocessing(model)
    return torch.stack([transform(image) for image in images])


def _folder(folder: Path, count: int) -> Iterable[Image.Image]:
    if not folder.is_dir():
        raise DataError(f"dataset: {folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if len(paths) < count:
        raise DataError(f"dataset: {folder}: expected {count} JPEG or PNG images, found {len(paths)}: lower num_images")
    for path in paths[:count]:
        try:
            with Image.open(path) as image:
                yield image.convert("RGB")
        except (UnidentifiedImageError, OSError) as exc:
            raise DataError(f"dataset: {path}: cannot be read as an image: {exc}") from exc


def _cifar10(path: str | None, count: int, download: bool) -> Iterable[Image.Image]:
    root = path or os.environ.get("CIFAR10_PATH")
    if not root:
        raise DataError("dataset: cifar10: set CIFAR10_PATH (in .env) to the folder that holds cifar-10-batches-py")
    try:
        data = torchvision.datasets.CIFAR10(root, train=False, download=download)
    except (RuntimeError, OSError) as exc:
        raise DataError(
            f"dataset: cifar10: {root}: {exc}: expected cifar-10-batches-py there; `dataset: cifar10:download` fetches it"
        ) from exc
    if len(data) < count:
        raise DataError(f"dataset: cifar10: expected {count} images, found {len(data)}: lower num_images")
    return (data[i][0] for i in range(count))
