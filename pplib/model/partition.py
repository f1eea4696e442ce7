"""Cutting a model: the valid partition points, and the stages between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from pplib.errors import PartitionError
from pplib.model.graph import Cut, example_device, module_path, single_tensor_cuts, trace, value_name
from pplib.model.stage_graph import stage_module
from pplib.model.units import unit_names


@dataclass(frozen=True)
class PartitionPoint:
    """The cut after unit `index`: its label, the module before it, and the tensor that crosses it.

    `activation_bytes` = numel x itemsize, for the batch size of the example input.
    """

    index: int
    label: str
    name: str
    activation_shape: tuple[int, ...]
    activation_dtype: str
    activation_bytes: int


class PartitionedModel:
    """A traced model and its partition points; hands out stages without tracing again.

    Args:
        model: eval-mode module taking x of shape (B, C, H, W), float32. On the meta device every
            stage is an independent copy, so that loading weights into it leaves the model empty;
            otherwise stages share the model's tensors.
        example_input: one batch, on the model's device.
        granularity: "block" (the architecture's own blocks) or "layer" (every single-tensor cut).

    Raises:
        ModelError: the model cannot be traced.
        PartitionError: unknown granularity.
    """

    def __init__(self, model: nn.Module, example_input: torch.Tensor, granularity: str = "block") -> None:
        if granularity not in ("block", "layer"):
            raise PartitionError(f"granularity: expected block or layer, got {granularity!r}")
        self.granularity = granularity
        self._traced = trace(model, example_input)
        self._copies = example_device(model).type == "meta"
        named = [(value_name(cut.value), cut) for cut in single_tensor_cuts(self._traced)]
        if granularity == "block":
            named = _block_cuts(self._traced, unit_names(model), named)
        self._cuts = [cut for _, cut in named]
        self.points = [_point(i, name, cut) for i, (name, cut) in enumerate(named[:-1])]
        self.points.append(_point(len(named) - 1, "output", self._cuts[-1]))

    def stages(self, points: Sequence[int]) -> list[fx.GraphModule]:
        """The len(points) + 1 stages between these points.

        Raises:
            PartitionError: a point is not valid; the message lists the valid ones.
        """
        return [self.stage(points, i) for i in range(len(points) + 1)]

    def stage(self, points: Sequence[int], stage_index: int) -> fx.GraphModule:
        """One of the stages between these points; an empty one hands its input on."""
        last = len(self._cuts) - 1
        validate_points(points, last)
        borders = [0, *points, last]
        begin, end = self._cuts[borders[stage_index]], self._cuts[borders[stage_index + 1]]
        return stage_module(self._traced, begin, end, copies=self._copies)


    def units(self) -> list[fx.GraphModule]:
        """Every unit as a stage of its own: the finest partition."""
        return [
            stage_module(self._traced, begin, end, copies=self._copies) for begin, end in itertools.pairwise(self._cuts)
        ]


def partition_points(
    model: nn.Module, example_input: torch.Tensor, granularity: str = "block"
) -> list[PartitionPoint]:
    """Every partition point of `model`, both baselines included: P0 is all on the last device, P_N all on the first.

    Args:
        model: eval-mode module taking x of shape (B, C, H, W).
        example_input: one such batch; activation sizes are for its batch size.
        granularity: "block" or "layer".

    Source: block numbering of arXiv 2601.08025; see `units.unit_names` for other models.

    >>> [p.label for p in partition_points(nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval(), torch.zeros(1, 3))]
    ['P0', 'P1', 'P2']
    """
    return PartitionedModel(model, example_input, granularity).points


def split(model: nn.Module, points: Sequence[int], granularity: str = "block") -> list[fx.GraphModule]:
    """Cut `model` at `points` and return its stages, in order; composed, they equal `model`.

    Args:
        model: eval-mode module; torchvision models at 224 x 224 (InceptionV3 at 299 x 299). For
            other input sizes use `PartitionedModel`, which takes an example.
        points: increasing partition points; empty gives one stage.
        granularity: what the points count.

    Returns:
        len(points) + 1 stages that share the model's tensors.

    Raises:
        PartitionError: a point is not valid; the message lists the valid ones.

    Source: arXiv 2601.08025, Algorithm 1 (k = 2); the k-way case is ours.
    """
    from torchvision.models import Inception3

    side = 299 if isinstance(model, Inception3) else 224
    example = torch.zeros((1, 3, side, side), device=example_device(model))
    return PartitionedModel(model, example, granularity).stages(points)


def validate_points(points: Sequence[int], last: int) -> None:
    """Check the points of one partition of a model with points 0..last.

    Increasing strictly inside; a stage may be empty only at the baselines (all 0 or all `last`).

    Raises:
        PartitionError: with the valid range.

    >>> validate_points((3, 7), 19); validate_points((0, 0), 19)
    >>> validate_points((20,), 19)
    Traceback (most recent call last):
    pplib.errors.PartitionError: partition point 20 is not valid: expected one of 0, 1, 2, ..., 19 (0: everything on the last device, 19: everything on the first)
    """  # noqa: E501
    for point in points:
        if not 0 <= point <= last:
            listed = ", ".join(str(p) for p in range(last + 1)) if last < 4 else f"0, 1, 2, ..., {last}"
            raise PartitionError(
                f"partition point {point} is not valid: expected one of {listed} "
                f"(0: everything on the last device, {last}: everything on the first)"
            )
    baseline = set(points) in ({0}, {last})
    inside = all(0 < p < last for p in points) and all(a < b for a, b in itertools.pairwise(points))
    if points and not baseline and not inside:
        raise PartitionError(
            f"partition points {tuple(points)} are not valid: expected increasing points from 1 to {last - 1}, or one "
            f"of the baselines {(0,) * len(points)} and {(last,) * len(points)}: only there may a stage be empty"
        )


def combinations(last: int, num_stages: int) -> list[tuple[int, ...]]:
    """All valid partitions of a model with points 0..last over `num_stages` devices, in order.

    >>> combinations(3, 2)
    [(0,), (1,), (2,), (3,)]
    >>> combinations(4, 3)
    [(0, 0), (1, 2), (1, 3), (2, 3), (4, 4)]
    """
    cuts = num_stages - 1
    return [(0,) * cuts, *itertools.combinations(range(1, last), cuts), (last,) * cuts]


def verify_cut(
    model: nn.Module, stages: Sequence[nn.Module], batch: torch.Tensor, atol: float = 1e-3, rtol: float = 1e-3
) -> float:
    """Prove on a real batch that the composed stages compute what the model computes.

    Returns:
        The largest absolute difference.

    Raises:
        PartitionError: larger than `atol` + `rtol` x the largest output.
    """
    with torch.inference_mode():
        reference = model(batch.clone())
        output = batch.clone()
        for stage in stages:
            output = stage(output)
    if output.shape != reference.shape:
        raise PartitionError(f"the stages give shape {tuple(output.shape)}, the model {tuple(reference.shape)}")
    error = float((output - reference).abs().max())
    allowed = atol + rtol * float(reference.abs().max())
    if not error <= allowed:
        raise PartitionError(
            f"the composed stages differ from the model by {error:.3g}, expected at most {allowed:.3g}: "
            "this model cannot be cut here"
        )
    return error


def _block_cuts(
    traced: fx.GraphModule, names: Sequence[str], every: Sequence[tuple[str, Cut]]
) -> list[tuple[str, Cut]]:
    """The cuts right after these modules, as far as one tensor crosses them, and both ends."""
    ends: dict[str, fx.Node] = {}
    wanted = set(names)
    for node in traced.graph.nodes:
        for name in module_path(node):
            if name in wanted:
                ends[name] = node
    positions = {node: i + 1 for i, node in enumerate(traced.graph.nodes)}
    after = {positions[node]: name for name, node in ends.items()}
    return [every[0], *((after[cut.position], cut) for _, cut in every[1:-1] if cut.position in after), every[-1]]


def _point(index: int, name: str, cut: Cut) -> PartitionPoint:
    dtype = str(cut.dtype).removeprefix("torch.")
    count = 1
    for size in cut.shape:
        count *= size
    return PartitionPoint(
        index=index,
        label=f"P{index}",
        name=name,
        activation_shape=cut.shape,
        activation_dtype=dtype,
        activation_bytes=count * cut.dtype.itemsize,
    )
