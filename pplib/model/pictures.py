"""The model room: picture files, found in a folder and decoded to what a preprocessing takes."""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pplib.config import input_path, looked_in
from pplib.errors import DataError
from pplib.model.weights.impostors import impostor

_WANTED = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
_WHITE = (255, 255, 255, 255)
# Pillow's decoders for these, and no others: some of the rest start other programs (PostScript: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MOST_PIXELS = 64_000_000  # a quarter of a gigabyte when decoded


def suffixes() -> tuple[str, ...]:
    """The suffixes of pictures that are read, as far as this Pillow can, in lower case."""
    Image.init()
    known = Image.registered_extensions()
    return tuple(suffix for suffix in _WANTED if (kind := known.get(suffix)) in Image.OPEN and kind in FORMATS)


def find_pictures(folder: str, count: int) -> list[Path]:
    """The first `count` pictures below a folder, in the order of `all_pictures`.

    Raises:
        DataError: no such folder, or it holds fewer (says what else it holds), or one is a link to nowhere.
    """
    place = input_path(folder)
    if not place.is_dir():
        what = "a file, expected a folder" if place.exists() else f"no such folder{looked_in(folder)}"
        raise DataError(f"dataset: folder:{folder}: {what}")
    pictures = all_pictures(place)
    if len(pictures) < count:
        known, seen = suffixes(), list(_below(place))
        files = [path for path in seen if not _is_hidden(path.relative_to(place))]
        others = Counter(path.suffix.lower() or "without a suffix" for path in files)
        told = [f"{number} {suffix}" for suffix, number in others.most_common() if suffix not in known]
        told += [f"{len(seen) - len(files)} hidden"] if len(seen) > len(files) else []
        beside = f" (and {', '.join(told[:6])}{', ...' if len(told) > 6 else ''}, not read)" if told else ""
        raise DataError(
            f"dataset: folder:{place}: holds {len(pictures)} images{beside}, num_images is {count}: "
            f"add images ({', '.join(known)}) or lower num_images"
        )
    for path in pictures[:count]:
        if not path.exists():
            raise DataError(f"dataset: {path}: is a link to {path.readlink()}, which is not there: repair or remove it")
    return pictures[:count]


def all_pictures(place: Path) -> list[Path]:
    """All pictures below a folder, by name; where all lie in sub-folders, in turns from these, as these are named.

    So the first of them are of all classes alike where sub-folders are classes. Hidden files and folders (`._x.jpg`,
    `.ipynb_checkpoints`) and `__MACOSX` are left out; links to folders are followed, each folder once.
    """
    known, turns = suffixes(), dict[str, list[Path]]()
    visible = [path for path in _below(place) if not _is_hidden(path.relative_to(place))]
    pictures = sorted(path for path in visible if path.suffix.lower() in known)
    if any(path.parent == place for path in pictures):
        return pictures
    for path in pictures:
        turns.setdefault(path.relative_to(place).parts[0], []).append(path)
    return [path for turn in itertools.zip_longest(*turns.values()) for path in turn if path is not None]


def class_folders(place: Path) -> tuple[str, ...]:
    """The names of the sub-folders of a folder, in order; hidden ones are left out."""
    return tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and not _is_hidden(Path(path.name))))


def _below(place: Path) -> Iterator[Path]:
    """Every file below a folder, and links to nowhere."""
    known: set[str] = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        known.add(os.path.realpath(folder))
        folders[:] = [name for name in sorted(folders) if os.path.realpath(Path(folder, name)) not in known]
        paths = (Path(folder, name) for name in files)
        yield from (path for path in paths if path.is_file() or (path.is_symlink() and not path.exists()))


def open_picture(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode one picture as it is meant to be seen, with 8 bits per channel; of several frames, the first.

    It is turned as its EXIF orientation says; what is transparent shows white; of 16-bit grey, 65535 is
    white; CMYK and palettes are converted.

    Args:
        path: of the file.
        mode: Pillow's: `RGB`, or `L` for grey.

    Raises:
        DataError: not readable, named; or its pixels are floating-point numbers, whose range is not known.
    """
    try:
        if not path.is_file():
            raise OSError("no ordinary file")  # reading one could wait for ever
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata
            if wrong := impostor(_head(path, 4096)):
                raise OSError(wrong)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(
                        f"{image.width} x {image.height} pixels, expected at most {MOST_PIXELS // 10**6} million"
                    )
                return as_mode(ImageOps.exif_transpose(image), mode)
    except Exception as exc:
        told = str(exc).replace(str(path), "it").partition("\n")[0] or type(exc).__name__
        if isinstance(exc, UnidentifiedImageError):
            told = f"it begins with {_head(path)!r}, which none of {', '.join(FORMATS)} does"
        raise DataError(f"dataset: {path}: not readable as an image: {told}; repair or remove it") from exc


def _head(path: Path, count: int = 12) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The same picture in another mode, with 8 bits per channel, nothing transparent.

    Raises:
        ValueError: its pixels have no known range.
    """
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, expected 8 or 16 bits: save it with those")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels have 32 bits, expected 8 or 16: save it with those")
        image = Image.fromarray(((values.astype(np.int32) * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, _WHITE)
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas.convert("RGB")
    return image.convert(mode)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
