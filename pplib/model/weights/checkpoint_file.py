"""The model room: what a file of weights holds, read without running any code that it may carry."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch

from pplib.errors import WeightsError
from pplib.model.weights.impostors import impostor

SAVE = "`torch.save(model.state_dict(), path)`"
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # how files of torch.save before 1.6 begin
_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow); expected PyTorch's or safetensors",
    b"\x93NUMPY": "a NumPy array; expected PyTorch's or safetensors",
    b"GGUF": "a GGUF file; expected PyTorch's or safetensors",
    b"\x1f\x8b": "compressed (gzip): unpack it",
    b"BZh": "compressed (bzip2): unpack it",
    b"\xfd7zXZ": "compressed (xz): unpack it",
    b"\x28\xb5\x2f\xfd": "compressed (zstandard): unpack it",
    b"7z\xbc\xaf": "compressed (7z): unpack it",
}
_MOST_TEXT_BYTES = 50_000_000  # of JSON that is looked at
_MOST_READS = 8  # a file with more kinds of dicts than that is made to hurt


class Inert(list[Any]):
    """Stands for an object whose class is not loaded: its code does not run, its state is kept."""

    state: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *args: Any) -> Inert:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        raise pickle.UnpicklingError(f"Can only SETITEM in a dict, not in {type(self)}")  # as PyTorch says from 2.10 on

    def __eq__(self, other: object) -> bool:
        return self is other


class _InertDict:
    """Stands for a class of dicts: an ordinary one takes its place."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def read_file(path: Path) -> Any:
    """The content of a file of weights: what it is, its bytes decide, not its name.

    Objects beside the tensors whose classes PyTorch does not load safely are `Inert`.

    Raises:
        WeightsError: what the file is, where it is not a checkpoint, is cut off, or would run code.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise WeightsError(f"weights: {path}: is no ordinary file: give one")
        head = _head(path)
        if _is_safetensors(head):
            return safetensors.torch.load_file(path)
        zipped = head.startswith(b"PK\x03\x04")
        return _load(path, _globals(path, zipped), zipped)
    except WeightsError:
        raise
    except Exception as exc:  # noqa: BLE001 (what reads them raises anything where bytes are damaged)
        raise WeightsError(f"weights: {path}: {_reason(exc)}") from None


def _head(path: Path) -> bytes:
    """The first bytes; raises where they, or the archive's list, say that it is something else."""
    if path.is_dir():
        raise WeightsError(f"weights: {path}: is a directory: give the file inside; it holds {_listing(path)}")
    with path.open("rb") as file:
        head = file.read(4096)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if _is_safetensors(head):
        return head
    if found := impostor(head):
        pass
    elif text.startswith(b"{"):
        found = _json(path)
    elif head.startswith(b"PK\x03\x04"):
        found = _archive(path)
    elif not head.startswith(_LEGACY):
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "")
        if other:
            found = f"is {other}"
        elif tarfile.is_tarfile(path):
            found = "is a tar archive: unpack it and give the file inside"
        elif head.startswith(b"\x80"):
            found = f"is a pickle that torch.save did not write; write it with {SAVE}"
        else:
            found = f"is no checkpoint: it begins with {head[:12]!r}; expected a file written by {SAVE}, or safetensors"
    if found:
        raise WeightsError(f"weights: {path}: {found}")
    return head


def _is_safetensors(head: bytes) -> bool:
    """They begin with the length of a header, 8 bytes of which the upper are 0 here, and the header, JSON."""
    return head[4:9] == b"\0\0\0\0{"


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return f"is cut off after {path.stat().st_size} bytes (its end is missing): copy or download it again"
    if unpacked > (packed := path.stat().st_size):  # PyTorch packs nothing: memory is bounded by the file's size
        return f"is compressed: of its {packed} bytes {unpacked} would be made; write it with {SAVE}"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            "is a TorchScript archive (torch.jit.save), which holds code: write the tensors with "
            "`torch.save(torch.jit.load(path).state_dict(), other)`"
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return (
            "is a torch.export archive, which holds a program: write the tensors with "
            "`torch.save(torch.export.load(path).state_dict, other)`"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return f"is a zip archive, but no checkpoint: it holds {_list(names)}; expected a file written by {SAVE}"
    return ""


def _json(path: Path) -> str:
    if path.stat().st_size > _MOST_TEXT_BYTES:
        return "is text, not weights"
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        return "is text, not weights"
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        shards = sorted({str(shard) for shard in content["weight_map"].values()})
        return (
            f"is the index of weights in {len(shards)} files ({_list(shards)}): join them in one file, "
            "`safetensors.torch.save_file` of all their tensors"
        )
    return "is JSON, not weights"


def _globals(path: Path, zipped: bool) -> set[str]:
    """The names of all classes and functions that a checkpoint refers to; nothing is imported."""
    found: set[str] = set()

    def collect(stream: IO[bytes]) -> None:
        for code, argument, _ in pickletools.genops(stream):
            if code.name == "GLOBAL" and argument:
                module, _, name = str(argument).partition(" ")
                # As they stand, and by Python 3's names for Python 2's: torch knows some of them.
                found.add(f"{module}.{name}")
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                found.add(f"{module}.{name}")

    if zipped:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            collect(io.BytesIO(archive.read(pickled)))
    else:
        with path.open("rb") as file:
            for _ in range(5):  # magic number, protocol, system, the object, the names of its storages
                collect(file)
    return found


def _load(path: Path, names: set[str], zipped: bool) -> Any:
    dicts: set[str] = set()
    for _ in range(_MOST_READS):
        stand_ins = [(_InertDict if name in dicts else _inert(name), name) for name in sorted(names)]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
                warnings.simplefilter("ignore")  # on old protocols and layouts
                if path.suffix.lower() != ".safetensors":
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
                with path.open("rb") as file:  # by such a name torch would read another format
                    return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as exc:
            more = {name for name in names - dicts if f"<class '{name}'>" in str(exc)}
            if "Can only SETITEM" not in str(exc) or not more:
                raise
            dicts |= more
    raise pickle.UnpicklingError(f"more than {_MOST_READS} kinds of dicts")


def _inert(name: str) -> type:
    module, _, own = name.rpartition(".")
    return type(own, (Inert,), {"__module__": module})


def _reason(exc: BaseException) -> str:
    """One line on what is wrong; torch's own paragraph advises to let the file run code."""
    told = str(exc)
    if "is blocked" in told or "GLOBAL" in told:
        blocked = told.partition("GLOBAL ")[2].split(" ")[0]
        return f"refers to {blocked}, which no weights need: it would run code, and is not read; write it with {SAVE}"
    if isinstance(exc, pickle.UnpicklingError) and "Unsupported operand" in told:
        return f"is written with a pickle protocol that PyTorch does not read safely; write it with {SAVE}"
    if isinstance(exc, pickle.UnpicklingError) and "persistent_load" in told:
        return f"is or holds a whole pickled module, which is code, not a state dict; write it with {SAVE}"
    if isinstance(exc, pickle.UnpicklingError):
        return f"holds objects that cannot be read without running code; write it with {SAVE}"
    line = next(iter(told.splitlines()), "")[:200] or type(exc).__name__
    if isinstance(exc, OSError) and exc.errno is not None:
        return f"cannot be read: {exc.strerror}"
    if "weights_only" in line:
        return f"is in a layout of old releases; write it again with {SAVE}"
    return f"is cut off or damaged ({line}): copy or download it again"


def _listing(folder: Path) -> str:
    return _list(sorted(entry.name for entry in folder.iterdir()))


def _list(names: list[str], shown: int = 4) -> str:
    return (", ".join(names[:shown]) + (", ..." if len(names) > shown else "")) or "nothing"
