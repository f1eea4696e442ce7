"""Runtimes: what executes a stage on a device. One file each; what stands in this folder can be asked for.

A runtime's file tells the package it needs, and how the stages that are made for it are opened. Here nothing of PyTorch
is imported, nor a runtime before it is used: a device needs what its own runtime needs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from numpy.typing import NDArray

from pplib.errors import ConfigError, nearest

Array = NDArray[Any]
Stage = Callable[[Array], Array]
"""Maps an input (its memory is left alone) to the output, both C-contiguous."""

Precision = Literal["float32", "bfloat16", "int8"]
EAGER = "eager"
JOINT = "+"  # between the runtimes of unlike stages


@dataclass(frozen=True)
class Place:
    """Where and how a stage runs: with `threads` inside one operation, on `device`, as torch names it (cpu, cuda:0)."""

    threads: int
    device: str
    precision: Precision = "float32"


class Runtime(Protocol):
    """What a file of this folder has.

    Attributes:
        PACKAGES: any of them brings it; the first is what pip is told to install.
        MODULES: what a worker imports of it.
        REQUIREMENTS: the file, beside the README, that lists all that a device with this runtime needs.
        ROOM_BYTES: what installing these takes at its height; of PyTorch, which has builds, nothing.
        FORM: what its stages are made as: PyTorch's operations, an ONNX graph, or an ExecuTorch program.
        PRECISIONS: that it can compute in; `int8` is of a graph that was quantised.
    """

    PACKAGES: tuple[str, ...]
    MODULES: tuple[str, ...]
    REQUIREMENTS: str
    ROOM_BYTES: float
    FORM: Literal["operations", "onnx", "executorch"]
    PRECISIONS: tuple[Precision, ...]

    @staticmethod
    def unfit(device: str) -> str:
        """Why it cannot run on `device`, as torch names it, where it is installed; empty where it can.

        It is loaded for that only where `device` is a GPU.
        """

    @staticmethod
    def open_stage(graph: bytes, folder: Path, place: Place) -> Stage:
        """Make a stage ready to run; not of eager PyTorch, whose stages are modules.

        Args:
            graph: an ONNX model whose large tensors are external data, in files of `folder`; or an ExecuTorch program,
                after a line with the name of such a file, or an empty one.
            folder: where these are.
            place: where it is to run.

        Raises:
            WorkerError: the runtime cannot run it, or not there.
        """


NAMES = tuple(sorted((one.name for one in pkgutil.iter_modules(__path__)), key=lambda name: (name != EAGER, name)))


def runtime(name: str) -> Runtime:
    """A runtime by its name."""
    return cast("Runtime", importlib.import_module(f"{__name__}.{name}"))


def needs_torch(name: str) -> bool:
    """Whether a device needs PyTorch for a runtime."""
    return "torch" in runtime(name).MODULES


def installed() -> dict[str, str]:
    """The runtimes that this Python has, and their versions; nothing is imported."""
    found = dict[str, str]()
    for name in NAMES:
        for package in runtime(name).PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(name, importlib.metadata.version(package))
    return found


def unfit(device: str) -> dict[str, str]:
    """The installed runtimes that cannot run on `device`, and why."""
    return {name: why for name in installed() if (why := runtime(name).unfit(device))}


def joined(asked: object, where: str = "runtime") -> str:
    """What a user asked for, one name or one per stage in a list, as one word: `onnxruntime+eager`.

    Raises:
        ConfigError: a runtime that is unknown; the nearest names are told.

    >>> joined("eager"), joined(["onnxruntime", "eager"]), joined(["eager", "eager"])
    ('eager', 'onnxruntime+eager', 'eager')
    """
    names = asked.split(JOINT) if isinstance(asked, str) else asked
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{where}: expected a runtime, or a list with one for each stage, got {asked!r}")
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"{where}: {name!r} is unknown; {nearest(str(name), NAMES)}")
    return names[0] if len(set(names)) == 1 else JOINT.join(names)


def of_stages(told: str, num_stages: int, where: str = "") -> list[str]:
    """The runtime of each stage.

    Raises:
        ConfigError: there are neither one nor as many as stages.

    >>> of_stages("eager", 3), of_stages("onnxruntime+eager", 2)
    (['eager', 'eager', 'eager'], ['onnxruntime', 'eager'])
    """
    names = told.split(JOINT)
    if len(names) not in (1, num_stages):
        raise ConfigError(f"{where}runtime: expected one runtime, or one for each of {num_stages} stages, got {told}")
    return names * num_stages if len(names) == 1 else names


def check_precision(told: str, precision: str, where: str = "") -> None:
    """Make sure that all these runtimes compute in a precision.

    Raises:
        ConfigError: one does not; says which do.
    """
    for name in told.split(JOINT):
        if precision not in runtime(name).PRECISIONS:
            able = [other for other in NAMES if precision in runtime(other).PRECISIONS]
            raise ConfigError(
                f"{where}precision: {name} computes in {', '.join(runtime(name).PRECISIONS)}, not in {precision}: "
                f"that is what {', '.join(able)} can"
            )


def check_offered(told: str, offered: Sequence[tuple[str, Collection[str], Mapping[str, str]]]) -> None:
    """Make sure that each device has the runtime of its stage, and can run it.

    Args:
        told: see `joined`.
        offered: of each device in order, its name, the runtimes that it has, and why those cannot run that cannot.

    Raises:
        ConfigError: one lacks it; which, and what installs it; or why it cannot run there.
    """
    for name, (device, has, unable) in zip(of_stages(told, len(offered)), offered, strict=True):
        if name not in has:
            raise ConfigError(f"{device}: " + missing(name, "its worker has " + (", ".join(has) or "none")))
        if name in unable:
            raise ConfigError(f"{device}: {unable[name]}")


def missing(name: str, instead: str) -> str:
    """What is wrong where a runtime is not installed, and what to do.

    Args:
        name: of the runtime.
        instead: what there is.
    """
    return (
        f"runtime {name}: {instead}: `paretopipe setup GRID`, with this sweep's file, installs it, or `pip install "
        f"{runtime(name).PACKAGES[0]}` in the environment of its worker"
    )
