"""From untyped values (YAML, notebook cells, JSON) to typed ones, with errors that name the path."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pplib.errors import ConfigError, nearest

T = TypeVar("T")
DEEPEST = 16  # levels of lists and mappings in one another
_LONGEST_SHOWN = 200
_CONTROL = frozenset(map(chr, [*range(32), 127, *range(128, 160), *range(0xD800, 0xE000)]))  # and half characters


def decode(values: object, kind: type[T] | Any, where: str = "") -> T:
    """Convert `values` to `kind`, strictly: no string becomes a number.

    Raises:
        ConfigError: `<where><path>: expected ..., got ...`; also for text with control characters and numbers
            that no computer counts with, which are wrong wherever they stand.
    """
    _check_plain(values, where, "")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(_explain(str(exc), values, kind, where)) from exc


def shown(value: object) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _check_plain(value: object, where: str, path: str) -> None:
    """Make sure that text can be shown and put into paths, and that numbers are finite and have at most 64 bits."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_plain(key, where, path)
            _check_plain(one, where, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            _check_plain(one, where, f"{path}[{i}]")
    wrong = "fewer levels" if path.count("[") + path.count(".") > DEEPEST else ""
    if isinstance(value, str) and (bad := next(filter(_CONTROL.__contains__, value), "")):
        wrong = f"text without control characters, got {bad!r} in {value[:40]!r}"
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        wrong = f"a number of at most 64 bits, got one of {value.bit_length()} bits"
    elif isinstance(value, float) and not math.isfinite(value):
        wrong = f"a finite number, got {value}"
    if wrong:
        raise ConfigError(f"{where}{path + ': ' if path else ': ' if where else ''}expected {wrong}")


def plain(value: object) -> Any:
    """Structs, tuples and paths as dicts, lists and strings, ready for JSON or YAML."""
    return msgspec.to_builtins(value, enc_hook=str)


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
    allowed, got = _literals(kind, path), _value_at(values, path)
    if allowed:
        message = f"expected one of {', '.join(allowed)}"
    elif "matching regex" in message and (said := _description(kind, path)):
        message = f"expected {said}"
    here = path + ": " if path else ": " if where else ""
    return f"{where}{here}{message}, got {shown(got)}{_advice(message, got)}"


def _advice(expected: str, got: object) -> str:
    """What to do about a value that YAML, or papermill's `-p`, made something else of than was meant."""
    number = "`int" in expected or "`float" in expected
    if got is None:
        return ": leave the key out to have its default"
    if isinstance(got, str) and got.strip()[:1] in ("[", "{") and "list" in expected:
        return ": that is text: papermill takes lists by -y, as in -y 'partition_points: [0, 7]'"
    if isinstance(got, str) and number and re.fullmatch(r"0\d+", got):
        return ": write it without the 0 in front"
    if isinstance(got, str) and number and _is_number(got):
        return ": that is text: write the number without quotes"
    if isinstance(got, str) and "a list of integers" in expected and _is_number(got):
        return ": that is text: write numbers without quotes"
    if isinstance(got, str) and "`int" in expected and re.fullmatch(r"\d{1,3}(,\d{3})+", got):
        return ": write it without commas"
    if isinstance(got, str) and "," in got and (number or "one of" in expected):
        return f": a list is written [{', '.join(part.strip() for part in got.split(','))}]"
    if isinstance(got, float) and "`int" in expected and got.is_integer():
        return f": write {got:.0f}"
    if isinstance(got, str) and got == "None" and "null" in expected:
        return ": in YAML it is null"
    if isinstance(got, bool) and "`str`" in expected:
        return ": YAML reads yes, no, on, off, true and false so: put it in quotes"
    if isinstance(got, int | float) and "`str`" in expected:
        return ": put it in quotes"
    if isinstance(got, int) and not isinstance(got, bool) and "a list of integers" in expected:
        return f": write [{got}]"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _steps(path: str) -> list[str]:
    return re.findall(r"[^.\[\]]+", path)


def _value_at(values: Any, path: str) -> object:
    for step in _steps(path):
        try:
            values = values[int(step)] if isinstance(values, list | tuple) else values[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return values
    return values


def _description(kind: Any, path: str) -> str:
    """The words that an annotation has for its pattern."""
    info = _type_at(kind, path)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    schemas = [one.extra_json_schema or {} for one in kinds if isinstance(one, msgspec.inspect.Metadata)]
    return next((str(schema["description"]) for schema in schemas if "description" in schema), "")


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
    return names + (["a list of integers"] if names and others else [])


def check_once(what: str, values: Sequence[object]) -> None:
    """Make sure that nothing stands twice in a list.

    Raises:
        ConfigError: something does.
    """
    seen: set[str] = set()
    for value in values:
        same = repr(float(value)) if isinstance(value, int | float) else repr(value)  # 1, 1.0 and true
        if same in seen:
            raise ConfigError(f"{what}: {shown(value)} stands twice in the list: keep one of them")
        seen.add(same)
