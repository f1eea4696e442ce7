"""From untyped values (YAML, notebook cells, JSON) to typed ones, with errors that name the path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from pplib.errors import ConfigError, nearest

T = TypeVar("T")


def decode(values: object, kind: type[T] | Any, where: str = "") -> T:
    """Convert `values` to `kind`, strictly: no string becomes a number.

    Raises:
        ConfigError: `<where><path>: expected ..., got ...`.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(_explain(str(exc), values, kind, where)) from exc


def plain(value: object) -> Any:
    """Structs, tuples and paths as dicts, lists and strings, ready for JSON or YAML."""
    return msgspec.to_builtins(value, enc_hook=str)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ConfigError: missing, unreadable, not YAML (with line and column), or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: not valid YAML: {exc}") from exc
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def _explain(message: str, values: object, kind: Any, where: str) -> str:
    message, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    unknown = re.match(r"Object contains unknown field `(.*)`", message)
    missing = re.match(r"Object missing required field `(.*)`", message)
    dotted = f"{path}." if path else ""
    if unknown:
        known = _fields_at(kind, path)
        hint = f"; {nearest(unknown[1], known)}" if known else ""
        return f"{where}{dotted}{unknown[1]}: unknown key{hint}"
    if missing:
        return f"{where}{dotted}{missing[1]}: this key is required"
    message = message.replace("Expected", "expected", 1).partition(", got")[0]
    message = message.replace("Invalid enum value", "not one of the allowed values")
    allowed = _literals(kind, path)
    if allowed:
        message = f"expected one of {', '.join(allowed)}"
    return f"{where}{path + ': ' if path else ': ' if where else ''}{message}, got {_value_at(values, path)!r}"


def _steps(path: str) -> list[str]:
    return re.findall(r"[^.\[\]]+", path)


def _value_at(values: Any, path: str) -> object:
    for step in _steps(path):
        try:
            values = values[int(step)] if isinstance(values, list | tuple) else values[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return values
    return values


def _type_at(kind: Any, path: str) -> Any:
    info: Any = msgspec.inspect.type_info(kind)
    for step in _steps(path):
        if isinstance(info, msgspec.inspect.UnionType):
            inner = [one for one in info.types if not isinstance(one, msgspec.inspect.NoneType)]
            info = inner[0]
        if isinstance(info, msgspec.inspect.StructType):
            found = [field.type for field in info.fields if field.encode_name == step]
            if not found:
                return None
            info = found[0]
        else:
            info = getattr(info, "item_type", None)
    return info


def _fields_at(kind: Any, path: str) -> list[str]:
    info = _type_at(kind, path)
    return [f.encode_name for f in info.fields] if isinstance(info, msgspec.inspect.StructType) else []


def _literals(kind: Any, path: str) -> list[str]:
    info = _type_at(kind, path)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    names = [str(value) for one in kinds if isinstance(one, msgspec.inspect.LiteralType) for value in one.values]
    others = [one for one in kinds if isinstance(one, msgspec.inspect.ListType)]
    return names + (["a list of points"] if names and others else [])
