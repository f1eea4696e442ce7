"""The model room: labels, which class each image of a dataset is of, where the dataset tells."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pplib.config import input_path
from pplib.errors import DataError, nearest
from pplib.model.data import is_cifar10, open_cifar10
from pplib.model.pictures import all_pictures, class_folders, find_pictures

CLASSES = "classes.txt"


class Labels(NamedTuple):
    """The classes of the images, by number, in the images' order: (N,), int64; and the names of all classes."""

    classes: npt.NDArray[np.int64]
    names: tuple[str, ...]


def load_labels(dataset: str, num_images: int, cifar10_path: str | None = None) -> Labels | None:
    """The labels of the images that `load_images` loads, which takes the same arguments; no picture is read.

    CIFAR-10 has its own. In `folder:PATH` the sub-folders are the classes, as torchvision's ImageFolder has them: a
    class is the place of its sub-folder among their sorted names, from 0. A file `classes.txt` beside them, one name a
    line in the order of the model's outputs, says it instead, and then may hold more names than there are sub-folders.

    Returns:
        None where the dataset has none: synthetic images, pictures in no sub-folder, or all in one without a list.

    Raises:
        DataError: pictures lie beside the sub-folders, one of these has none or is not in the list, or the list is not
            one; or as `load_images`.
    """
    kind, _, rest = dataset.partition(":")
    if is_cifar10(dataset):
        data = open_cifar10(cifar10_path, num_images, download=bool(rest))
        return Labels(np.asarray(data.targets[:num_images], dtype=np.int64), tuple(data.classes))
    if kind != "folder" or not rest:
        return None
    chosen, place = find_pictures(rest, num_images), input_path(rest)
    folders = [path.relative_to(place).parts[0] if path.parent != place else "" for path in all_pictures(place)]
    if not any(folders) or (len(set(folders)) == 1 and not (place / CLASSES).is_file()):
        return None
    if "" in folders:
        raise DataError(
            f"dataset: {place}: expected pictures in sub-folders named by class, or in no sub-folder, got "
            f"{folders.count('')} beside {_some(set(folders) - {''})}: move these into the sub-folders of their "
            "classes, or all into one folder"
        )
    names = _listed(place, set(folders)) if (place / CLASSES).is_file() else _sorted(place, set(folders))
    numbers = {name: number for number, name in enumerate(names)}
    index = [numbers[path.relative_to(place).parts[0]] for path in chosen]
    return Labels(np.asarray(index, dtype=np.int64), names)


def check_labels(labels: Labels | None, output_shape: tuple[int, ...], dataset: str, model: str) -> None:
    """Make sure that a model has an output for every label; one whose output is not (B, classes) has no accuracy.

    Raises:
        DataError: a label is beyond the outputs.
    """
    if labels is None or len(output_shape) != 2 or output_shape[1] == 1:
        return
    if (last := int(labels.classes.max())) >= output_shape[1]:
        raise DataError(
            f"dataset: {dataset}: class {labels.names[last]!r} is number {last}, and {model} has {output_shape[1]} "
            f"outputs, expected at least {last + 1}: take a model of these classes (num_classes: {len(labels.names)} "
            f"replaces the head), or say in {CLASSES} which output is whose; where sub-folders are no classes, move "
            "their pictures into one"
        )


def _sorted(place: Path, used: set[str]) -> tuple[str, ...]:
    """The classes of a folder that has no list."""
    names = class_folders(place)
    if empty := set(names) - used:
        raise DataError(
            f"dataset: {place}: expected pictures in every sub-folder, got none in {_some(empty)}: a class is the "
            f"place of its sub-folder among all; remove those, or write {CLASSES}, one class a line in the order of "
            "the model's outputs"
        )
    return names


def _listed(place: Path, used: set[str]) -> tuple[str, ...]:
    """The classes of a folder that has a list."""
    path = place / CLASSES
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"dataset: {path}: cannot be read: {exc}: expected one class a line, in UTF-8") from exc
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            what = f"{name!r} a second time" if name else "nothing"
            raise DataError(
                f"dataset: {path}: line {number + 1}: expected the name of a class, got {what}: a class a line"
            )
    for name in sorted(used - set(names)):
        raise DataError(
            f"dataset: {place / name}: expected a sub-folder named as one of the {len(names)} classes in {path.name}, "
            f"got {name!r}; {nearest(name, names)}: rename it, or add it to the list"
        )
    return names


def _some(names: set[str]) -> str:
    told = [repr(name) for name in sorted(names)]
    return ", ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")
