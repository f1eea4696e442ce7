"""What a user asks for: the parameters of one configuration, checked before a device is touched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pplib import ROOT
from pplib.decode import check_once, decode, plain, shown
from pplib.errors import ConfigError
from pplib.files.expanded import expanded
from pplib.files.names import LONGEST_NAME, check_name, check_path
from pplib.links import LinkProfile, find_link, wire_parts
from pplib.runtimes import EAGER, Precision, check_precision, joined, of_stages

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Backend = Literal["socket", "rpc", "gloo"]
PASSWORDLESS: tuple[Backend, ...] = ("rpc", "gloo")  # of PyTorch: they listen on ports of their own, for everybody
Granularity = Literal["block", "layer"]
Points = Literal["all", "auto", "even", "plan"] | list[int | list[int]]
Repeats = Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=10_000)]

PLANNED = ("auto", "plan")  # of `partition_points`: predictions choose the cuts
LINKS_FILE = "params/links.yaml"
WARMUP_MICROBATCHES = 3
LEAST_MICROBATCHES = 3
FIRST_REPEATS = 2  # of every point, where those after them depend on what they say


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `sweep.ipynb`: one papermill execution.

    Around the measured images flow others, in the same stream without a gap: `WARMUP_MICROBATCHES`
    before them, and `cooldown` after them, so that the pipeline is as full for the last as for the first.

    `max_trial_s` ends a trial over a slow link about then, with fewer images, but at least
    `LEAST_MICROBATCHES` measured ones, or one more than are in flight; the record says how many, `num_microbatches`.

    `partition_points`: all; a list; even, units shared out equally; auto, the cut that profiles of the devices and the
    link predict to be best; plan, cuts chosen round after round, until no other may be on the front with 95 %, or
    `max_minutes` have passed.

    With `repeats: auto` every point is measured `FIRST_REPEATS` times, then those of which it is not decided whether
    they are on the front once more, until it is, up to `max_repeats`, or until `max_minutes` have passed.

    `indifference` is the difference between two points that does not matter, as a share of their latency or throughput:
    what it changes is what is said of the trials, not the trials. So do `objectives`, columns or column -> min or max,
    and `limits`, column -> value in its stored unit: see `pplib.objectives`.

    `min_agreement` is the share of images of which a `lossy` trial must say the class that the float32 model says, else
    it is failed; see docs/measuring.md for why it is a half.

    `variant` ends the name of the results' folder; a grid gives it where lists vary what names do not tell.
    """

    name: str = "default"
    model: str = "mobilenet_v2"
    weights: str = "random"
    num_classes: Count | None = None
    dataset: str = "synthetic"
    num_images: Count = 64
    batch_size: Count = 8
    granularity: Granularity = "block"
    partition_points: Points = "all"
    num_stages: Annotated[int, msgspec.Meta(ge=2, le=64)] = 2
    backend: Backend = "socket"
    link: str = "none"
    wire: str = "float32"
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    max_trial_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    repeats: Repeats = 3
    max_repeats: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 10
    max_minutes: Annotated[float, msgspec.Meta(gt=0)] | None = None
    indifference: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.02
    objectives: list[str] | dict[str, str] = msgspec.field(default_factory=lambda: ["latency_s", "throughput_img_s"])
    limits: dict[str, float] = {}
    devices: str = "params/devices/local.yaml"
    optimize: bool = True
    runtime: str = EAGER
    precision: Precision = "float32"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    min_agreement: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    output_dir: str = "outputs"
    variant: str | None = None

    @property
    def num_microbatches(self) -> int:
        """Measured microbatches of one trial."""
        return self.num_images // self.batch_size

    @property
    def first_repeats(self) -> int:
        """Trials that every point gets."""
        return FIRST_REPEATS if self.repeats == "auto" else self.repeats

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
        """All microbatches of the shortest trial: those measured make a whole bunch after the first, see `counted`."""
        measured = max(LEAST_MICROBATCHES, self.in_flight + 1)
        return WARMUP_MICROBATCHES + min(measured, self.num_microbatches) + self.cooldown

    @property
    def link_profile(self) -> LinkProfile:
        """What `link` names.

        Raises:
            ConfigError: the link file has no such name, or cannot be read.
        """
        return find_link(self.link, input_path(LINKS_FILE))

    @property
    def devices_file(self) -> Path:
        """The file that `devices` names.

        Raises:
            ConfigError: there is none; says where it was looked for.
        """
        path = input_path(self.devices)
        if not path.is_file():
            raise ConfigError(f"devices: no such file: {self.devices}{looked_in(self.devices)}")
        return path

    @property
    def folder_model(self) -> str:
        """The model's name as it stands in names of folders."""
        return self.model.replace(":", ".")

    @property
    def identity(self) -> str:
        """Folder name of this configuration's results: what distinguishes it inside one grid."""
        parts = [self.folder_model, self.granularity, f"k{self.num_stages}", f"b{self.batch_size}", self.backend]
        parts += [self.link, f"f{self.in_flight}"]
        parts += [] if self.optimize else ["plain"]
        parts += [] if self.runtime == EAGER else [self.runtime]
        parts += [] if self.wire == "float32" else [self.wire]
        parts += [] if self.precision == "float32" else [self.precision]
        return "_".join(parts + ([self.variant] if self.variant else []))

    @property
    def lossy(self) -> bool:
        """Whether the pipeline is not to compute what the float32 model computes, to the last digits."""
        return self.precision != "float32" or wire_parts(self.wire)[0] != "float32"

    @property
    def runtimes(self) -> list[str]:
        """The runtime of each stage."""
        return of_stages(self.runtime, self.num_stages)

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
        skipped = {"name", "output_dir", "variant", "partition_points", "devices"}
        skipped |= {"repeats", "max_repeats", "max_minutes", "indifference", "objectives", "limits", "min_agreement"}
        return {key: value for key, value in self.as_dict().items() if key not in skipped}

    def as_dict(self) -> dict[str, Any]:
        """The parameters as plain values, in their order."""
        values: dict[str, Any] = plain(self)
        return values


PARAMETERS = Configuration.__struct_fields__
LISTS = ("partition_points", "runtime", "objectives")
"""Parameters that one configuration may give as a list: points, runtimes of its stages, and objectives."""


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
        if isinstance(value, list) and key in PARAMETERS and key not in LISTS:
            raise ConfigError(
                f"{where}{key}: expected one value, got the list {shown(value)}: lists make a grid, and a grid "
                "is run by `paretopipe sweep GRID.yaml`"
            )
    if "runtime" in values:
        values = {**values, "runtime": joined(values["runtime"], f"{where}runtime")}
    config: Configuration = decode(values, Configuration, where)
    of_stages(config.runtime, config.num_stages, where)
    check_precision(config.runtime, config.precision, where)
    wire_parts(config.wire, where)
    if config.model.endswith(".py"):
        raise ConfigError(
            f"{where}model: expected a name of torchvision's or package.module:function, got {shown(config.model)}: "
            "the function `net` in models/mine.py is models.mine:net"
        )
    if config.num_images % config.batch_size or config.num_microbatches < 2:
        lower = max(2, config.num_microbatches) * config.batch_size
        raise ConfigError(
            f"{where}num_images: expected a multiple of batch_size={config.batch_size} with at least 2 "
            f"microbatches, got {config.num_images}: try {lower} or {lower + config.batch_size}"
        )
    for key in ("link", "weights", "dataset", "devices", "output_dir"):
        check_path(f"{where}{key}", getattr(config, key))
    for key in ("weights", "devices", "output_dir"):
        try:
            expanded(getattr(config, key))
        except ConfigError as exc:
            raise ConfigError(f"{where}{key}: {exc}") from exc
    try:
        find_link(config.link, input_path(LINKS_FILE))
    except ConfigError as exc:
        raise ConfigError(f"{where}{exc}") from exc
    from pplib.objectives import aims  # here: it knows the columns, which know the parameters

    aims(config.objectives, config.limits, config.indifference, where, config.partition_points in PLANNED)
    check_name(f"{where}name", config.name)
    check_name(f"{where}model", config.folder_model[:LONGEST_NAME])
    if config.partition_points == []:
        raise ConfigError(
            f"{where}partition_points: expected all, auto, even, plan or at least one point, got an empty list"
        )
    if isinstance(config.partition_points, list):
        check_once(f"{where}partition_points", config.partition_points)
    return with_folder(config, where)


def with_folder(config: Configuration, where: str) -> Configuration:
    """`config`, if its folder can be made.

    Raises:
        ConfigError: its name cannot be a folder's.
    """
    if config.variant is not None:
        check_name(f"{where}variant", config.variant)
    check_name(f"{where}the folder that model, link and variant name", config.identity)
    return config


def project_path(path: str | Path) -> Path:
    """A relative path as a user means it: from the current folder, but from the checkout's root
    when a notebook runs inside `notebooks/` or `my-notebooks/`, as JupyterLab does.

    For what is written; what is read, `input_path` finds.
    """
    return search_folders()[0] / expanded(path)


def input_path(path: str | Path) -> Path:
    """Where a file or folder that is to be read is: the first of `search_folders` that has it.

    So `weights`, `dataset` and `devices` mean the same in a sweep, under papermill and in JupyterLab. A path
    that is nowhere is given as it would be in the first; `looked_in` says where it was looked for.
    """
    places = [folder / expanded(path) for folder in search_folders()]
    return next((place for place in places if place.exists()), places[0])


def looked_in(path: str | Path) -> str:
    """The folders in which `input_path` looks, for the error that a path is nowhere; empty if it is absolute."""
    if expanded(path).is_absolute():
        return ""
    return f" (looked in {' and in '.join(str(folder) for folder in search_folders())})"


def search_folders() -> list[Path]:
    """Where relative paths and users' modules are looked for: the current folder (but the checkout's root in
    place of its `notebooks/` and `my-notebooks/`), then the checkout's root.
    """
    here, root = Path.cwd(), ROOT
    inside = any(here.is_relative_to(root / folder) for folder in ("notebooks", "my-notebooks"))
    return list(dict.fromkeys([root if inside else here, root]))


def make_importable() -> None:
    """Let users' modules in `search_folders` be imported; what is found elsewhere goes before."""
    for folder in search_folders():
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
