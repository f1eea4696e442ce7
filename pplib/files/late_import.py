"""One import that takes two seconds and is hardly ever needed, put off until it is."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

_NAME = "rfc3987_syntax"  # jsonschema's check of international addresses: it makes a parser of a grammar at once


class _Late(ModuleType):
    def is_valid_syntax(self, term: str, value: str) -> bool:
        """As the module that is loaded now says."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        return bool(importlib.import_module(_NAME).is_valid_syntax(term, value))


def put_off_slow_imports() -> None:
    """Have what is imported after this (altair, nbformat, papermill) not wait for a parser that it does not use."""
    if _NAME not in sys.modules and (spec := importlib.util.find_spec(_NAME)) is not None:
        late = sys.modules[_NAME] = _Late(_NAME)
        late.__spec__ = spec
