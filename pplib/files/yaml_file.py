"""Reading YAML that people write: values, each key once, and never more than a person would write."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from pplib.decode import DEEPEST
from pplib.errors import ConfigError

MOST_BYTES = 1_000_000
MOST_NODES = 20_000  # keys and values, aliases counted as what they stand for
_BOUNDS = f"{MOST_NODES} keys and values on {DEEPEST} levels"
_STANDARD = "tag:yaml.org,2002:"
_UNDER_WAY = (0, 0)
_TAGS = ("str", "int", "float", "bool", "null", "seq", "map", "merge")
_NOT_AS_YAML_1_1 = ("timestamp", "value", "int", "float")
_FAULTS = (ValueError, TypeError, AttributeError, LookupError, OverflowError)  # of PyYAML's, on odd scalars


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; a date is text, as it stands there.

    Numbers are decimal (`1_000`, `1e-3`) or hexadecimal (`0x40`): what YAML 1.1 takes for octal (010 is 8) or
    for base 60 (1:30 is 90) is text, too. Its size is known to be bounded before anything is made of it.

    Raises:
        ConfigError: missing, unreadable, no ordinary file, not YAML (with line and column), not a mapping, or
            larger or deeper than `MOST_BYTES`, `MOST_NODES` and `DEEPEST`.
    """
    try:
        text = _text(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: expected text in UTF-8, got the byte 0x{exc.object[exc.start]:02x} in line {line}: save it as "
            "UTF-8"
        ) from exc
    try:
        values = _load(text)
    except yaml.MarkedYAMLError as exc:
        raise ConfigError(f"{path}: not valid YAML: {_in_one_line(exc, text)}") from exc
    except (yaml.YAMLError, *_FAULTS) as exc:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(exc).split())}") from exc
    if values is None:
        raise ConfigError(f"{path}: expected `key: value` lines, got none: the file says nothing")
    if not isinstance(values, dict):
        kind = "text" if isinstance(values, str) else type(values).__name__
        raise ConfigError(f"{path}: expected `key: value` lines, got {kind}{_nearly(text)}")
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: expected `key: value` lines, got the key {key!r}: keys are words")
    return values


def _in_one_line(exc: yaml.MarkedYAMLError, text: str) -> str:
    mark = exc.problem_mark or exc.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    said = ", ".join(part for part in (exc.context, exc.problem) if part)
    if "found another document" in said:
        return f"{where}expected a single document, got a second one after `---`"
    if "\\t" in said:
        return f"{where}a tab: YAML is indented with spaces"
    lines, begun = text.splitlines(), exc.context_mark
    colon = begun is not None and "could not find expected ':'" in said and begun.line < len(lines)
    return f"{where}{said}{_nearly(lines[begun.line]) if colon and begun else ''}"


def _nearly(text: str) -> str:
    """What to do about `key:value`."""
    found = re.search(r"^\s*([A-Za-z_]\w*):(?=[^\s:])", text, re.MULTILINE)
    return f": write a space after the colon of `{found[1]}:`" if found else ""


def _text(path: Path) -> str:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"expected an ordinary file, got {stat.filemode(status.st_mode)}")
    if status.st_size > MOST_BYTES:
        raise OSError(f"expected at most {MOST_BYTES} bytes, got {status.st_size}")
    return path.read_bytes().decode("utf-8-sig")


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many keys and values a node stands for, and on how many levels, with those of every alias in it."""
    if found := known.get(id(node)):
        if found == _UNDER_WAY:
            raise _fault("a list or mapping holds itself", node)
        return found
    if not node.tag.startswith(_STANDARD) or node.tag.removeprefix(_STANDARD) not in _TAGS:
        raise _fault(f"expected no tag, or one of {', '.join(_TAGS)}, got {node.tag!r}", node)
    total, levels = 1, 0
    known[id(node)] = _UNDER_WAY
    if isinstance(node, yaml.CollectionNode):
        pairs = isinstance(node, yaml.MappingNode)
        for child in (one for pair in node.value for one in pair) if pairs else node.value:
            size, depth = _expanded(child, known)
            total, levels = total + size, max(levels, depth + 1)
            if total > MOST_NODES or levels > DEEPEST:
                raise _fault(f"expected at most {_BOUNDS}, aliases spelt out", node)
    known[id(node)] = total, levels
    return total, levels


def _fault(told: str, there: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, told, there.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML as `safe_load` reads it, but dates are text, numbers are what people mean by them, and a key that is
    given twice is an error: else the last one wins unseen.
    """

    nodes = depth = 0

    yaml_implicit_resolvers = {  # noqa: RUF012 (of the class, as PyYAML has it)
        first: [
            (tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value", ":int", ":float"))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > MOST_NODES or self.depth > DEEPEST:
            raise _fault(f"expected at most {_BOUNDS}", self.peek_event())  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _fault("expected a mapping", node)
        seen: dict[object, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value}: given twice, in lines {seen[key.value]} and {line}: keep one of them"
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 40:
            raise _fault(f"expected a number of at most 64 bits, got one of {len(node.value)} digits", node)
        number: int = super().construct_yaml_int(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_INT = r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)"
_EXPONENT = r"[eE][-+]?[0-9]+"
_FLOAT = rf"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:{_EXPONENT})?|\.[0-9]+(?:{_EXPONENT})?|[0-9]+{_EXPONENT}|\.(?:inf|Inf|INF))"
for _kind, _pattern in (("int", _INT), ("float", rf"{_FLOAT}|\.(?:nan|NaN|NAN)")):
    _Loader.add_implicit_resolver(f"{_STANDARD}{_kind}", re.compile(rf"^(?:{_pattern})$"), list("-+.0123456789"))
