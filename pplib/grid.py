"""A grid: a YAML file whose lists expand into configurations."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from pplib.config import LISTS, Configuration, configuration, with_folder
from pplib.decode import check_once, decode, shown
from pplib.errors import ConfigError
from pplib.files.yaml_file import read_yaml
from pplib.runtimes import EAGER, check_precision, joined, needs_torch

MOST_CONFIGURATIONS = 1_000  # of one grid
_JUDGED = ("indifference", "objectives", "limits", "min_agreement")
FOR_ALL = ("name", "output_dir", "variant", "repeats", "max_repeats", "max_minutes", *_JUDGED)
"""Parameters that no grid varies: where results go, how often each is measured, and how they are judged."""
_AXES = ("backend", "link", "wire", "in_flight", "optimize", "runtime", "precision")
IN_NAMES = ("model", "granularity", "num_stages", "batch_size", *_AXES)
"""What a folder's name tells already, see `Configuration.identity`."""

_WORDS = {"num_classes": "classes", "num_images": "images", "max_trial_s": "trial"}
_LONGEST = 40


class Grid(msgspec.Struct, frozen=True):
    """A YAML file whose lists expand into configurations.

    `keep` is "all", or "summary" to drop timelines and executed notebooks once the summary is written.
    """

    configurations: tuple[Configuration, ...]
    keep: Literal["all", "summary"] = "all"


def load_grid(path: Path) -> Grid:
    """Read a grid and expand its lists, the last key varying fastest.

    Raises:
        ConfigError: the file is missing, no mapping, or one of its configurations is not valid.
    """
    values, where = read_yaml(path), f"{path}: "
    kept = values.pop("keep", "all")
    kept = kept[0] if isinstance(kept, list) and len(kept) == 1 else kept
    keep: Literal["all", "summary"] = decode(kept, Literal["all", "summary"], f"{where}keep")
    if not values:
        raise ConfigError(f"{where}expected at least one parameter, got none: an empty grid")
    expanded: list[dict[str, object]] = [{}]
    count = math.prod(len(value) for key, value in values.items() if _is_varied(key, value))
    if count > MOST_CONFIGURATIONS:
        raise ConfigError(
            f"{where}expected lists that make at most {MOST_CONFIGURATIONS} configurations, got {count}: one takes "
            "minutes; shorten the lists, or make several grids"
        )
    for key, value in values.items():
        choices: list[object] = value if _is_varied(key, value) else [value]
        if not choices:
            raise ConfigError(f"{where}{key}: expected at least one value, got an empty list")
        if any(isinstance(choice, list) for choice in choices) and key not in LISTS:
            raise ConfigError(f"{where}{key}: expected a list of values, got a list in a list: {shown(value)}")
        check_once(f"{where}{key}", choices)
        if len(choices) > 1 and key in FOR_ALL:
            raise ConfigError(f"{where}{key}: expected one value for the whole grid, got a list")
        expanded = [{**one, key: choice} for one in expanded for choice in choices]
    expanded = _possible(expanded, where)
    configurations = [configuration(one, where) for one in expanded]
    varied = {key: value for key, value in values.items() if _is_varied(key, value) and len(value) > 1}
    named = [
        msgspec.structs.replace(config, variant="_".join([*([config.variant] if config.variant else []), *parts]))
        if parts
        else config
        for config, parts in zip(configurations, variant_parts(expanded, varied), strict=True)
    ]
    folders = [config.identity.casefold() for config in named]
    doubled = [config.identity for i, config in enumerate(named) if folders[i] in folders[:i]]
    if doubled:
        raise ConfigError(f"{where}two configurations share the folder {doubled[0]!r}: give one another `name`")
    return Grid(tuple(with_folder(config, where) for config in named), keep)


def _possible(expanded: list[dict[str, object]], where: str) -> list[dict[str, object]]:
    """Those whose runtimes have their precision: where lists of both meet, not every pair can be.

    Raises:
        ConfigError: none can be.
    """
    found, wrong = list[dict[str, object]](), ConfigError()
    for one in expanded:
        runtime = joined(one.get("runtime", EAGER), f"{where}runtime")
        try:
            check_precision(runtime, str(one.get("precision", "float32")), where)
        except ConfigError as exc:
            wrong = exc
        else:
            found.append(one)
    if not found or (len(found) < len(expanded) and len({str(one.get("precision")) for one in expanded}) == 1):
        raise wrong
    return found


def _is_varied(key: str, value: object) -> bool:
    """Whether a list makes configurations; the points of one are a list themselves, but names of rules are not."""
    if not isinstance(value, list) or key == "objectives":
        return False
    return key != "partition_points" or (bool(value) and all(isinstance(one, str) for one in value))


def variant_parts(expanded: Sequence[Mapping[str, object]], varied: Mapping[str, list[object]]) -> list[list[str]]:
    """For every configuration of a grid, one short word per key that varies and that its name does not tell.

    Args:
        expanded: the parameters of each configuration.
        varied: the keys that have a list, and the list.

    >>> variant_parts([{"seed": 0}, {"seed": 1}], {"seed": [0, 1]})
    [['seed0'], ['seed1']]
    """
    words = {key: _words(key, values) for key, values in varied.items() if key not in IN_NAMES}
    return [[word(one[key], words[key]) for key in words] for one in expanded]


def word(value: object, words: Mapping[str, str]) -> str:
    """The word of one value of a list."""
    return words[repr(value)]


def _words(key: str, values: Sequence[object]) -> dict[str, str]:
    """A word for each value; where two would be the same, or one is cut short, a hash tells them apart."""
    short = {repr(value): _short(key, value) for value in values}
    taken = [text.casefold() for text in short.values()]
    return {
        value: text
        if taken.count(text.casefold()) == 1 and 0 < len(text) < _LONGEST
        else f"{text[:_LONGEST]}-{hashlib.sha256(value.encode()).hexdigest()[:6]}".lstrip("-")
        for value, text in short.items()
    }


def _short(key: str, value: object) -> str:
    if isinstance(value, str):  # a path, or `folder:PATH`: its last part
        text = re.sub(r"\.(ya?ml|pth|pt|safetensors)$", "", value.rstrip("/").rpartition("/")[2])
        return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:_LONGEST]
    return f"{_WORDS.get(key, key)}{'own' if value is None else value}"


def runtimes_of(configurations: Sequence[Configuration], devices: Sequence[str]) -> dict[str, set[str]]:
    """What the worker of each device, of these in stage order, needs for configurations; rpc and gloo are PyTorch."""
    needed = {name: set[str]() for name in devices}
    for config in configurations:
        for name, used in zip(devices, config.runtimes, strict=False):
            needed[name] |= {used} if config.backend == "socket" else {used, EAGER}
    return needed


def loading_torch(configurations: Sequence[Configuration], devices: Sequence[str]) -> set[str]:
    """The devices, of these in stage order, whose worker needs PyTorch itself for one of these configurations."""
    return {name for name, used in runtimes_of(configurations, devices).items() if any(map(needs_torch, used))}
