"""Two imports that take seconds and are hardly ever needed, put off until they are."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


class _Late(ModuleType):
    """Stands for a module until something of it is used; of one `function` it takes a call."""

    def __init__(self, name: str, function: str) -> None:
        super().__init__(name)
        setattr(self, function, lambda *args, **options: self._loaded(function)(*args, **options))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import itself
            raise AttributeError(name)
        return self._loaded(name)

    def _loaded(self, name: str) -> Any:
        self.step_aside()
        return getattr(importlib.import_module(self.__name__), name)

    def step_aside(self) -> None:
        """Have whoever imports the module from here on get the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


def put_off_slow_imports() -> None:
    """Have what is imported after this (altair, nbformat, papermill) not wait for a parser that it does not use."""
    name = "rfc3987_syntax"  # jsonschema's check of international addresses: it makes a parser of a grammar at once
    if name not in sys.modules and (spec := importlib.util.find_spec(name)) is not None:
        late = sys.modules[name] = _Late(name, "is_valid_syntax")
        late.__spec__ = spec


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Have torchvision, if it is imported in this context, not wait for PyTorch's compiler, of which it asks something
    when boxes are pooled on a GPU.
    """
    name = "torch._dynamo.utils"
    if name in sys.modules:
        yield
        return
    late = sys.modules[name] = _Late(name, "is_compile_supported")
    try:
        yield
    finally:
        late.step_aside()
