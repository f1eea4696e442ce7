"""The model room: which entry of a checkpoint, under which prefix, holds the tensors of a module."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pplib.errors import WeightsError
from pplib.model.weights.checkpoint_file import Inert

State = dict[str, torch.Tensor]
# Where several entries fit equally well, the first of these; averaged weights only where no others fit.
ENTRIES = ("", "state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
_AVERAGED = ("ema", "swa", "averaged", "average")
# Names that training puts around a module, anywhere in it.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Names of a model inside something larger: what lies beside it in the file is left out.
_HOLDERS = {"model", "net", "network", "backbone", "encoder", "student", "teacher", "ema", "model_ema", "ema_model",
            "online", "target", "generator", "encoder_q", "encoder_k", "base_encoder", "momentum_encoder"}  # fmt: skip
# What tools add to a model's tensors: counters of averaging, of operations, and settings of layers.
_BESIDE = {"n_averaged", "total_ops", "total_params", "_extra_state"}
_DEPTH = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """Tensors of a checkpoint under a module's own names.

    `entry` is the path of keys they were found under, `prefix` what was taken off their names,
    `left_out` what lies beside the prefix, `fitting` how many tensors of the module are there in their shape.
    """

    entry: str
    prefix: str
    state: State
    left_out: list[str]
    fitting: int

    @property
    def told(self) -> str:
        """Where the tensors were found, for messages; empty where that is the plain case."""
        parts = [f"entry `{self.entry}`"] if self.entry else []
        parts += [f"prefix `{self.prefix}` taken off"] if self.prefix else []
        parts += [f"{len(self.left_out)} tensors beside it left out"] if self.left_out else []
        return ", ".join(parts)


def find_states(content: Any, source: str) -> dict[str, State]:
    """Every dict with tensors in a checkpoint, by its path of keys (`state.model`; the outermost is "").

    Raises:
        WeightsError: there is none; says what the file holds.
    """
    states = dict(_walk(content, "", 0, set()))
    whole = _whole_module(content)
    if not states or (whole and list(states) == [""]):
        raise WeightsError(
            f"{source}: {whole or _describe(content)}; expected a state dict of tensors, itself or under a key such as "
            "`state_dict` or `model`: write it with `torch.save(model.state_dict(), path)`"
        )
    return states


def choose(
    own: State,
    states: dict[str, State],
    source: str,
    translate: Callable[[str], str] = str,
    fits: Callable[[torch.Tensor, torch.Tensor], bool] = lambda given, own: given.shape == own.shape,
) -> Fit:
    """The entry and the prefix with which most tensors of a module are found, in their shapes.

    Wrappers' names (`module`, `_orig_mod`, ...) may stand anywhere; other prefixes are taken off where all
    names have them, where the whole model is under them, or where they are usual names of a model in something
    larger. What tools add to a model's tensors (`n_averaged`, `total_ops`, ...) is left out. Among equals: plain before
    averaged (`ema`) weights, then the order of `ENTRIES`, then no prefix before usual before other ones.

    Args:
        own: the module's state dict.
        states: from `find_states`.
        source: opens messages.
        translate: applied to each name without its prefix.
        fits: whether a given tensor can be an own one.

    Raises:
        WeightsError: two entries or prefixes fit equally well, with unlike tensors.
    """
    found = [fit for entry, state in states.items() for fit in _readings(own, entry, state, translate, fits)]
    found.sort(key=_rank)
    best = found[0]
    rivals = [fit for fit in found if fit.fitting == best.fitting and not _same(fit.state, best.state, own)]
    if best.fitting and (equal := [fit for fit in rivals if _rank(fit)[:4] == _rank(best)[:4]]):
        ways = " and ".join(f"({fit.told or 'as it is'})" for fit in (best, equal[0]))
        raise WeightsError(
            f"{source}: two sets of tensors fit equally well: {ways}: write the one you mean to a file of its own"
        )
    if best.fitting and (rivals or best.left_out):
        over = f"; fitting as well: {', '.join(sorted({fit.told or 'the outermost' for fit in rivals}))}"
        _log.warning("%s: taken: %s%s", source, best.told or "the outermost tensors", over if rivals else "")
    return best


def _walk(content: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, State]]:
    """Each dict once: one that holds another a thousand times over takes no longer."""
    if id(content) in seen or depth > _DEPTH:
        return
    seen.add(id(content))
    if isinstance(content, list | tuple) and not isinstance(content, Inert):
        content = {str(i): value for i, value in enumerate(content[:16])}
    if not isinstance(content, dict):
        return
    state: State = OrderedDict(
        (key, value) for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)
    )
    if state:
        if (metadata := getattr(content, "_metadata", None)) is not None:
            state._metadata = metadata  # type: ignore[attr-defined]
        yield path, state
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, dict | list | tuple):
            yield from _walk(value, f"{path}.{key}".lstrip("."), depth + 1, seen)


def _readings(
    own: State,
    entry: str,
    state: State,
    translate: Callable[[str], str],
    fits: Callable[[torch.Tensor, torch.Tensor], bool],
) -> Iterator[Fit]:
    """The ways to read the names of one entry: as they are, without wrappers' names, without a prefix."""
    for unwrap in (str, _unwrapped):
        names = {unwrap(key): key for key in own}
        keys = {unwrap(key): key for key in state}
        if len(names) < len(own) or len(keys) < len(state):
            continue  # the model has such names of its own
        for prefix in ("", *_prefixes(keys, names, translate)):
            inside = {key: translate(key.removeprefix(prefix)) for key in keys if key.startswith(prefix)}
            given: State = OrderedDict((names.get(name, name), state[keys[key]]) for key, name in inside.items())
            _give_versions(given, state, own, unwrap, prefix)
            shown = _taken_off(keys, inside) if prefix or unwrap is _unwrapped else ""
            fitting = sum(1 for key, value in given.items() if key in own and fits(value, own[key]))
            beside = [keys[key] for key in keys if key not in inside]
            for name in [name for name in given if name not in own and name.rpartition(".")[2] in _BESIDE]:
                beside.append(name)
                del given[name]
            yield Fit(entry, shown, given, beside, fitting)


def _prefixes(keys: dict[str, str], names: dict[str, str], translate: Callable[[str], str]) -> list[str]:
    """Those of all names, usual ones, and any under which the model is complete."""
    counts: Counter[str] = Counter()
    complete = sum(1 for name in names if not name.endswith("num_batches_tracked"))
    for key in keys:
        parts = key.split(".")
        for i in range(1, len(parts)):
            name = translate(".".join(parts[i:]))
            if name in names:
                counts[".".join(parts[:i]) + "."] += 0 if name.endswith("num_batches_tracked") else 1
    return [
        prefix
        for prefix in counts
        if counts[prefix] == complete or all(key.startswith(prefix) for key in keys) or _is_usual(prefix)
    ]


def _is_usual(prefix: str) -> bool:
    return _HOLDERS.union(_WRAPPERS).issuperset(prefix[:-1].split("."))


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS) or key


def _taken_off(keys: dict[str, str], inside: dict[str, str]) -> str:
    """What was taken off the names, as they stand in the file, for messages."""
    for key, name in inside.items():
        if keys[key] != name:
            ahead = keys[key].removesuffix(name)
            return ahead if ahead != keys[key] else ".".join(_WRAPPERS.intersection(keys[key].split("."))) + "."
    return ""


def _give_versions(given: State, state: State, own: State, unwrap: Callable[[str], str], prefix: str) -> None:
    """Modules read the version of their layout from `_metadata`, to translate files of older releases."""
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        given._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
        return
    names = {unwrap(key) if key not in _WRAPPERS else "": key for key in getattr(own, "_metadata", {})}
    moved = {}
    for key, value in metadata.items():
        plain = ("" if key in _WRAPPERS else unwrap(key)) if unwrap is _unwrapped else key
        if f"{plain}.".startswith(prefix):
            name = f"{plain}.".removeprefix(prefix).rstrip(".")
            moved[names.get(name, name)] = value
    given._metadata = OrderedDict(moved)  # type: ignore[attr-defined]


def _rank(fit: Fit) -> tuple[int, bool, int, int, int, str]:
    words = f"{fit.entry}.{fit.prefix}".replace("_", ".").split(".")
    last = fit.entry.rpartition(".")[2]
    order = ENTRIES.index(last) if last in ENTRIES else len(ENTRIES)
    return (
        -fit.fitting,
        any(word in _AVERAGED for word in words),
        order,
        (1 if _is_usual(fit.prefix) else 2) if fit.prefix else 0,
        len(fit.left_out),
        fit.told,
    )


def _same(one: State, other: State, own: State) -> bool:
    """Whether two readings give a module the same tensors."""

    def equal(key: str) -> bool:
        if key not in one or key not in other:
            return key not in one and key not in other
        a, b = one[key], other[key]
        if a is b or a.is_meta or b.is_meta or (a.shape, a.dtype, a.layout) != (b.shape, b.dtype, b.layout):
            return a is b
        return a.layout == torch.strided and torch.equal(a, b)

    return all(equal(key) for key in own)


def _whole_module(content: Any) -> str:
    """Where a pickled module stands in place of its state dict; empty if nowhere."""
    for key, value in ({"": content, **content} if isinstance(content, dict) else {"": content}).items():
        state = value.state if isinstance(value, Inert) else None
        if isinstance(state, dict) and "_parameters" in state:
            where = f"the entry `{key}` is" if key else "is"
            return f"{where} a whole pickled module ({_type(value)}), which is code, not a state dict"
    return ""


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        kinds = [f"`{key}` ({_type(value)})" for key, value in list(content.items())[:4]]
        told = f"holds no tensors, but a dict of {', '.join(kinds)}{', ...' if len(content) > 4 else ''}"
        inner = [
            *content.values(),
            *(item for one in content.values() if isinstance(one, dict) for item in one.values()),
        ]
        if any(isinstance(item, Inert) and type(item).__module__.startswith("numpy") for item in inner):
            told += " (arrays of NumPy, of which torch.from_numpy makes tensors)"
        return told
    return f"holds no tensors, but a {_type(content)}"


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
