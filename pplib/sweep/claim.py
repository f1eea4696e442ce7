"""Whether a folder of results can be continued: what decides a trial is compared by its content."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from pplib.config import Configuration, input_path
from pplib.decode import plain
from pplib.devices import Testbed
from pplib.errors import ConfigError, OutputError
from pplib.files.own_paths import shown_values
from pplib.model.pictures import find_pictures
from pplib.pipeline.wire.messages import Description
from pplib.records import read_record, write_atomic
from pplib.runtimes import EAGER, check_offered
from pplib.sweep.results import trial_files
from pplib.testbed.shipping.model_code import model_code

_HARDWARE = ("cpu", "machine", "gpu", "logical_cpus", "memory_bytes", "torch", "congestion_control")
_MEMORY_TOLERANCE = 0.05  # kernels keep a little more or less to themselves


def claim_folder(config: Configuration, testbed: Testbed, content: Mapping[str, Any] | None = None) -> None:
    """Make this configuration's folder, or make sure that what it holds can be continued.

    Args:
        config: whose folder.
        testbed: its devices.
        content: what else decides its trials, as far as it is known by now: see `known_content`, and `hardware`.

    Raises:
        OutputError: not writable, or it holds trials of other parameters, devices or content; they are named.
    """
    path = config.folder / "configuration.json"
    ours = {**config.measured(), "devices": plain(testbed)["devices"]}
    if config.link_profile.shaped:
        ours["link_profile"] = plain(config.link_profile)
    if testbed.tunnel != "none":
        ours["tunnel"] = testbed.tunnel
    found = {**known_content(config), **(content or {})}
    ours, before = shown_values(ours), dict[str, Any]()
    if path.exists():
        try:
            theirs: dict[str, Any] = shown_values(msgspec.json.decode(path.read_bytes()))
            theirs = {**Configuration().measured(), **theirs}  # parameters that were not there yet had one value
        except (OSError, msgspec.DecodeError) as exc:
            raise OutputError(f"{path}: cannot be read: {exc}") from exc
        trials = trial_files(config.folder)
        before = theirs.pop("content", {}) or (_content_of(trials[0]) if trials else {})
        before = before if trials else {}
        differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        changes = [f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in differing]
        changes = changes or _differences(before, found)  # other parameters have other content
        if changes:
            raise OutputError(
                f"{config.folder}: holds trials that cannot be compared with these ({'; '.join(changes)}): "
                "choose another `name`, or delete the folder"
            )
    whole = {**ours, "content": {**before, **found}}
    write_atomic(path, msgspec.json.format(msgspec.json.encode(whole), indent=1))


def known_content(config: Configuration) -> dict[str, Any]:
    """What is known of a configuration's content without loading anything.

    Raises:
        ModelError: the model's own code cannot be read.
        DataError: the folder of images has too few.
    """
    known: dict[str, Any] = {"torch": str(torch.__version__), "torchvision": importlib.metadata.version("torchvision")}
    weights = input_path(config.weights)
    if config.weights not in ("random", "DEFAULT") and weights.is_file():
        with weights.open("rb") as file:
            known["weights file"] = hashlib.file_digest(file, "sha256").hexdigest()
    kind, _, folder = config.dataset.partition(":")
    if kind == "folder" and input_path(folder).is_dir():
        # Their pixels are compared once they are loaded.
        pictures = [(path.name, path.stat().st_size) for path in find_pictures(folder, config.num_images)]
        known["image files"] = hashlib.sha256(str(pictures).encode()).hexdigest()
    if code := model_code(config.model):
        # Not its bytes: comments and spaces change nothing.
        texts = [f"{name}\n{ast.dump(ast.parse(text))}" for name, text in code.items()]
        known["model code"] = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return known


def hardware(hosts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """What the devices are, as their workers tell it."""
    pairs = zip(names, hosts, strict=True)
    return {f"device {name}": {key: host[key] for key in _HARDWARE if key in host} for name, host in pairs}


def devices_content(config: Configuration, devices: Sequence[Description]) -> dict[str, Any]:
    """What the devices are, and of which version what executes their stages.

    Raises:
        ConfigError: a device lacks the runtime of its stage, or the precision.
    """
    check_offered(config.runtime, [(one.name, one.runtimes, one.unfit) for one in devices])
    for one in devices:
        if config.precision == "bfloat16" and one.no_bfloat16:
            raise ConfigError(
                f"{one.name}: precision bfloat16: {one.no_bfloat16}: it would be emulated, and slower than float32: "
                "choose float32 or int8"
            )
    found = hardware([one.host for one in devices], [one.name for one in devices])
    for name, one in zip(config.runtimes, devices, strict=True):
        if name != EAGER:
            found[f"device {one.name}"][name] = one.runtimes[name]
    return found


def _content_of(trial: Path) -> dict[str, Any]:
    """What a record tells, for folders whose content was not noted."""
    record = read_record(trial)
    known = {"weights": record.environment.get("weights_sha256"), "torch": record.environment.get("torch")}
    devices = hardware(record.devices, [str(one["name"]) for one in record.devices])
    return {**{key: value for key, value in known.items() if value}, **devices}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In words, of what both know."""
    found = []
    for key in ours:
        if key not in theirs or theirs[key] == ours[key]:
            continue
        if isinstance(ours[key], dict):
            found += [f"{key}: {text}" for text in _differences(theirs[key], ours[key])]
        elif key != "memory_bytes" or abs(theirs[key] - ours[key]) > _MEMORY_TOLERANCE * ours[key]:
            there, here = (str(one)[:12] if len(str(one)) == 64 else repr(one) for one in (theirs[key], ours[key]))
            found.append(f"{key}: {there} there, {here} here")
    return found
