"""The source files that a user's own model is made of: what decides, by its content, what it computes."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pplib.config import make_importable
from pplib.errors import ModelError
from pplib.testbed.shipping.our_code import PACKAGES

_INSTALLED = tuple(
    Path(folder).resolve()
    for folder in {
        *(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


def model_code(model: str) -> dict[str, bytes]:
    """The files of a user's own model, `package.module:function`, by path below the folder they are imported from.

    Those are the module's file, the files of all modules it imports (anywhere in its text, and so on from
    there), and their packages'. What is installed is left out; so are modules imported by a name that is computed,
    and files other than Python's.

    Returns:
        Sorted by path; none for a model by name.

    Raises:
        ModelError: a file cannot be read as Python.
    """
    make_importable()
    files: dict[str, bytes] = {}
    seen: set[str] = set()
    waiting = [model.partition(":")[0]] if ":" in model else []
    while waiting:
        name = waiting.pop()
        if name in seen or (spec := _own(name)) is None:
            continue
        seen.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if spec.origin is None:  # a folder without __init__.py
            continue
        content = Path(spec.origin).read_bytes()
        is_package = spec.submodule_search_locations is not None
        files[name.replace(".", "/") + ("/__init__.py" if is_package else ".py")] = content
        try:
            tree = ast.parse(content, spec.origin)
        except (SyntaxError, ValueError) as exc:
            raise ModelError(f"{spec.origin}: not readable as Python: {exc}") from exc
        waiting += _imported(tree, name if is_package else name.rpartition(".")[0])
    return dict(sorted(files.items()))


def _own(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module comes from, if it is the user's: not installed, not ours, and written in Python."""
    top, _, rest = name.partition(".")
    if not top or top in PACKAGES or top in sys.builtin_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
        if spec is None or not _is_own(spec):
            return None
        spec = importlib.util.find_spec(name) if rest else spec  # imports its packages
    except (ImportError, ValueError):  # not there: what imports it has done without; or no real module
        return None
    return spec if spec is not None and _is_own(spec) else None


def _is_own(spec: importlib.machinery.ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return bool(places) and all(
        place not in ("built-in", "frozen")
        and (spec.origin is None or place.endswith(".py"))
        and not any(Path(place).resolve().is_relative_to(folder) for folder in _INSTALLED)
        for place in places
    )


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The names of the modules that a text imports; a name taken from a package may be a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
