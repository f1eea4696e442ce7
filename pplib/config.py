"""What a user asks for: the parameters of one configuration, checked before a device is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pplib.decode import decode, plain, read_yaml
from pplib.errors import ConfigError, nearest
from pplib.links import LinkProfile, find_link

Positive = Annotated[int, msgspec.Meta(ge=1)]
Backend = Literal["socket", "rpc"]
Granularity = Literal["block", "layer"]
Points = Literal["all", "auto", "even"] | list[int | list[int]]

LINKS_FILE = "params/links.yaml"
WARMUP_MICROBATCHES = 3
LEAST_MICROBATCHES = 3


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `sweep.ipynb`: one papermill execution.

    Around the measured images flow others, in the same stream without a gap: `WARMUP_MICROBATCHES`
    before them, and `cooldown` after them, so that the pipeline is as full for the last as for the first.

    `max_trial_s` ends a trial over a slow link about then, with fewer images, but at least
    `LEAST_MICROBATCHES` measured microbatches; the record says how many (`num_microbatches`).
    """

    name: str = "default"
    model: str = "mobilenet_v2"
    weights: str = "random"
    num_classes: Positive | None = None
    dataset: str = "synthetic"
    num_images: Positive = 64
    batch_size: Positive = 8
    granularity: Granularity = "block"
    partition_points: Points = "all"
    num_stages: Annotated[int, msgspec.Meta(ge=2)] = 2
    backend: Backend = "socket"
    link: str = "none"
    in_flight: Positive = 1
    max_trial_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    repeats: Positive = 3
    devices: str = "params/devices/local.yaml"
    optimize: bool = True
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    output_dir: str = "outputs"

    @property
    def num_microbatches(self) -> int:
        """Measured microbatches of one trial."""
        return self.num_images // self.batch_size

    @property
    def cooldown(self) -> int:
        """Unmeasured microbatches that follow the measured ones."""
        return self.in_flight - 1

    @property
    def total_microbatches(self) -> int:
        """All microbatches of one trial, if it is not cut short."""
        return WARMUP_MICROBATCHES + self.num_microbatches + self.cooldown

    @property
    def least_microbatches(self) -> int:
        """All microbatches of the shortest trial."""
        return WARMUP_MICROBATCHES + min(LEAST_MICROBATCHES, self.num_microbatches) + self.cooldown

    @property
    def link_profile(self) -> LinkProfile:
        """What `link` names.

        Raises:
            ConfigError: the link file has no such name, or cannot be read.
        """
        return find_link(self.link, _links_file())

    @property
    def identity(self) -> str:
        """Folder name of this configuration's results: what distinguishes it inside one grid."""
        model = self.model.replace(":", ".")
        parts = [model, self.granularity, f"k{self.num_stages}", f"b{self.batch_size}", self.backend]
        parts += [self.link, f"f{self.in_flight}"]
        return "_".join(parts + ([] if self.optimize else ["plain"]))

    @property
    def folder(self) -> Path:
        """Where this configuration's executed notebook and trials go."""
        return self.results / self.identity

    @property
    def results(self) -> Path:
        """The folder of the whole grid: `summary.csv`, the report, one folder per configuration."""
        return project_path(self.output_dir) / self.name

    def measured(self) -> dict[str, Any]:
        """The parameters that decide what a trial measures; results of unlike ones never mix."""
        skipped = {"name", "output_dir", "partition_points", "repeats", "devices"}
        return {key: value for key, value in self.as_dict().items() if key not in skipped}

    def as_dict(self) -> dict[str, Any]:
        """The parameters as plain values, in their order."""
        values: dict[str, Any] = plain(self)
        return values


PARAMETERS = Configuration.__struct_fields__


def configuration(values: Mapping[str, object], where: str = "") -> Configuration:
    """Check `values` and make them a configuration.

    Raises:
        ConfigError: an unknown key, a wrong type, or values that do not go together; the message
            starts with the key's path.

    >>> configuration({"batch_size": "four"})
    Traceback (most recent call last):
    pplib.errors.ConfigError: batch_size: expected `int`, got 'four'
    """
    for key, value in values.items():
        if isinstance(value, list) and key in PARAMETERS and key != "partition_points":
            raise ConfigError(
                f"{where}{key}: expected one value, got the list {value!r}: lists make a grid, and a grid "
                "is run by `python -m pplib.sweep GRID.yaml`"
            )
    config: Configuration = decode(values, Configuration, where)
    return _checked(config, where)


def from_notebook(namespace: Mapping[str, object], **fixed: object) -> Configuration:
    """The configuration a notebook's parameter cells define, read from its `globals()`, and `fixed`.

    Papermill only warns about a parameter the notebook does not have, and runs with the default;
    here such a name is an error. Call it in the cell after the parameters: imported modules,
    functions and names that begin with an underscore are not parameters.
    """
    return configuration({**notebook_parameters(namespace), **fixed})


def reject_unknown(namespace: Mapping[str, object], known: Sequence[str]) -> None:
    """Make sure that a notebook was given no parameter but the `known` ones.

    Raises:
        ConfigError: the unknown one, and those nearest to it.
    """
    for name in notebook_parameters(namespace):
        if name not in known:
            raise ConfigError(f"{name}: unknown parameter; {nearest(name, known)}")


def notebook_parameters(namespace: Mapping[str, object]) -> dict[str, object]:
    """The plain values a notebook's first cells have defined (no modules, callables, `In`, `Out`)."""
    shell = {"In", "Out", "get_ipython", "exit", "quit", "open"}
    return {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_")
        and key not in shell
        and (value is None or isinstance(value, bool | int | float | str | list | tuple | dict))
    }


def _checked(config: Configuration, where: str) -> Configuration:
    if config.num_images % config.batch_size or config.num_microbatches < 2:
        lower = max(2, config.num_microbatches) * config.batch_size
        raise ConfigError(
            f"{where}num_images: expected a multiple of batch_size={config.batch_size} with at least 2 "
            f"microbatches, got {config.num_images}: try {lower} or {lower + config.batch_size}"
        )
    try:
        find_link(config.link, _links_file())
    except ConfigError as exc:
        raise ConfigError(f"{where}{exc}") from exc
    if not config.name or Path(config.name).name != config.name:
        raise ConfigError(f"{where}name: expected a plain folder name, got {config.name!r}")
    return config


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
    values = read_yaml(path)
    keep: Literal["all", "summary"] = decode(values.pop("keep", "all"), Literal["all", "summary"], f"{path}: keep")
    where = f"{path}: "
    expanded: list[dict[str, object]] = [{}]
    for key, value in values.items():
        choices = value if isinstance(value, list) and key != "partition_points" else [value]
        if not choices:
            raise ConfigError(f"{where}{key}: expected at least one value, got an empty list")
        expanded = [{**one, key: choice} for one in expanded for choice in choices]
    configurations = tuple(configuration(one, where) for one in expanded)
    for key in ("name", "output_dir", "devices"):
        if isinstance(values.get(key), list):
            raise ConfigError(f"{where}{key}: expected one value for the whole grid, got a list")
    folders = [config.identity for config in configurations]
    doubled = sorted({folder for folder in folders if folders.count(folder) > 1})
    if doubled:
        raise ConfigError(
            f"{where}two configurations share the folder {doubled[0]!r}: lists may vary model, granularity, "
            "num_stages, batch_size, backend, link, in_flight and optimize; give the rest another `name`"
        )
    return Grid(configurations, keep)


def _links_file() -> Path:
    """The user's link file, or where there is none, that of the checkout."""
    path = project_path(LINKS_FILE)
    return path if path.exists() else Path(__file__).resolve().parent.parent / LINKS_FILE


def project_path(path: str | Path) -> Path:
    """A relative path as a user means it: from the current folder, but from the checkout's root
    when a notebook runs inside `notebooks/`, as JupyterLab does.
    """
    path = Path(path).expanduser()
    here = Path.cwd()
    root = Path(__file__).resolve().parent.parent
    return path if path.is_absolute() else (root if here == root / "notebooks" else here) / path
