"""The model room: where a model may be cut, and the stages that cutting it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from pplib.errors import ModelError, PartitionError, nearest
from pplib.model.points import PartitionPoint, combinations, validate_points
from pplib.model.stages.modules import build_stage
from pplib.model.stages.proof import tolerance_of
from pplib.model.tracing.graph import Cut, TracedModel, node_name, scopes, trace
from pplib.model.tracing.operations import works
from pplib.model.units import unit_names

__all__ = [
    "GRANULARITIES",
    "PartitionPoint",
    "PartitionedModel",
    "combinations",
    "partition_points",
    "split",
    "validate_points",
]

GRANULARITIES = ("block", "layer")


class PartitionedModel:
    """A model traced once, from which stages are cut at any points.

    On a skeleton (a model on the meta device) nothing is computed, and each stage is a copy of its
    own, so that weights loaded into it do not stay here. Otherwise stages share the model's modules.
    """

    def __init__(self, model: nn.Module, example_input: torch.Tensor, granularity: str = "block") -> None:
        """Trace `model`.

        Args:
            model: eval-mode module from one tensor to one tensor.
            example_input: (B, C, H, W); on meta where the model is.
            granularity: `block`, or `layer` for every place where exactly one tensor is alive.

        Raises:
            ModelError: the model cannot be traced or run; says where and what to do.
            PartitionError: unknown granularity.
        """
        if granularity not in GRANULARITIES:
            raise PartitionError(f"granularity: {granularity!r} is unknown; {nearest(granularity, GRANULARITIES)}")
        self.granularity = granularity
        self._traced = trace(model, example_input)
        self._units = frozenset(unit_names(model))
        cuts = self._traced.layer_cuts()
        inner = (
            _block_cuts(self._traced, cuts[1:-1], self._units)
            if granularity == "block"
            else [Cut(cut.node, cut.positions[-1:]) for cut in cuts[1:-1]]
        )
        # P0 stands before every operation and P_N after all, also those whose value nobody uses.
        ends = Cut(cuts[0].node, cuts[0].positions[:1]), Cut(cuts[-1].node, cuts[-1].positions[-1:])
        self._cuts = [ends[0], *inner, ends[1]] if len(cuts) > 1 else list(ends)
        self.points: list[PartitionPoint] = [self._point(i) for i in range(len(self._cuts))]

    @property
    def fixed(self) -> bool:
        """Whether the stages may be right for inputs of the example's shape only, its batch size among them."""
        return self._traced.fixed

    @property
    def tolerance(self) -> float:
        """The difference that rounding may make, relative to the largest output (see `tolerance_of`)."""
        return tolerance_of(facts.dtype for facts in self._traced.facts.values() if facts.dtype is not None)

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """Tensors that forward() makes and that are the same for every input, by their names in the stages."""
        return self._traced.tensors

    def stages(self, points: Sequence[int]) -> list[nn.Module]:
        """All stages between `points`, in order; `len(points) + 1` of them.

        Raises:
            PartitionError: the points are not valid; lists the valid ones.
        """
        return [self.stage(points, i) for i in range(len(points) + 1)]

    def stage(self, points: Sequence[int], stage_index: int) -> fx.GraphModule:
        """Stage `stage_index` of the cut at `points`; an empty stage returns its very input.

        Raises:
            PartitionError: the points are not valid; lists the valid ones.
        """
        last = len(self._cuts) - 1
        validate_points(points, last)
        if not 0 <= stage_index <= len(points):
            raise PartitionError(
                f"stage_index: expected 0..{len(points)} for points {tuple(points)}, got {stage_index}"
            )
        borders = (0, *points, last)
        return self.between(borders[stage_index], borders[stage_index + 1])

    def between(self, first: int, last: int) -> fx.GraphModule:
        """The units after point `first` up to point `last`, as one module."""
        begin, end = self._cuts[first], self._cuts[last]
        return build_stage(self._traced, begin.positions[0], end.positions[0], begin.node, end.node)

    def units(self) -> list[fx.GraphModule]:
        """Every unit as a stage of its own: the finest partition."""
        return [self.between(i, i + 1) for i in range(len(self._cuts) - 1)]

    def unit_name(self, index: int) -> str:
        """Qualified name of unit `index` (1..N); the last one's is that of its first and last module."""
        if index < len(self._cuts) - 1:
            return self.points[index].name
        start = self._cuts[-2].positions[0]
        names = list(dict.fromkeys(self._block_names(start, len(self._traced.nodes)))) or ["output"]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"

    def _point(self, index: int) -> PartitionPoint:
        cut = self._cuts[index]
        facts = self._traced.facts[cut.node.name]
        assert facts.shape is not None
        if index == 0:
            name = "input"
        elif index == len(self._cuts) - 1:
            name = "output"
        elif self.granularity == "layer":
            name = node_name(cut.node)
        else:
            names = self._block_names(0, cut.positions[0])
            name = names[-1] if names else node_name(cut.node)
        return PartitionPoint(
            index=index,
            label=f"P{index}",
            name=name,
            activation_shape=facts.shape,
            activation_dtype=str(facts.dtype).removeprefix("torch."),
            activation_bytes=facts.num_bytes,
        )

    def _block_names(self, start: int, end: int) -> list[str]:
        """Units met among nodes start..end, and the modules that lie in none and compute something."""
        found = []
        for node in self._traced.nodes[start:end]:
            unit = None if self.granularity == "layer" else next((s for s in scopes(node) if s in self._units), None)
            if unit is not None:
                found.append(unit)
            elif node.op == "call_module" and works(self._traced.model.get_submodule(str(node.target))):
                found.append(node_name(node))
        return found


def partition_points(model: nn.Module, example_input: torch.Tensor, granularity: str = "block") -> list[PartitionPoint]:
    """Every place where `model` may be cut, from P0 (the input) to P_N (the output), both baselines included.

    Args:
        model: eval-mode module from one tensor to one tensor.
        example_input: (B, C, H, W), float32.
        granularity: `block` or `layer`.

    Raises:
        ModelError: the model cannot be traced.

    Source: arXiv 2601.08025 for the numbering of its six architectures.

    >>> from torchvision.models import alexnet
    >>> points = partition_points(alexnet().eval(), torch.zeros(1, 3, 224, 224))
    >>> points[3].label, points[3].name, points[3].activation_shape, points[-1].index
    ('P3', 'features.2', (1, 64, 27, 27), 13)
    """
    return PartitionedModel(model, example_input, granularity).points


def split(
    model: nn.Module,
    points: Sequence[int],
    granularity: str = "block",
    example_input: torch.Tensor | None = None,
) -> list[nn.Module]:
    """Cut `model` at `points` and return its stages, in order. They share the model's modules.

    Args:
        model: eval-mode module taking x of shape (B, 3, H, W), float32.
        points: increasing partition points; empty gives one stage.
        granularity: `block` or `layer`.
        example_input: a batch the model takes; None tries one image of 224 x 224, then 299 x 299.

    Returns:
        len(points) + 1 stages; composed, they equal `model`.

    Raises:
        PartitionError: a point is not valid; the message lists the valid ones.

    Source: arXiv 2601.08025, Algorithm 1 (k = 2); the k-way case is ours.

    >>> from torchvision.models import alexnet
    >>> [len(stage.state_dict()) for stage in split(alexnet().eval(), (4,))]
    [4, 12]
    """
    if example_input is not None:
        return PartitionedModel(model, example_input, granularity).stages(points)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    try:
        return PartitionedModel(model, torch.zeros(1, 3, 224, 224, device=device), granularity).stages(points)
    except PartitionError:
        raise
    except ModelError:
        try:
            larger = PartitionedModel(model, torch.zeros(1, 3, 299, 299, device=device), granularity)
        except ModelError:
            larger = None
        if larger is None:
            raise
    return larger.stages(points)


def _block_cuts(traced: TracedModel, cuts: Sequence[Cut], units: frozenset[str]) -> list[Cut]:
    """Those of `cuts` that lie on a border between two units."""
    owner: list[str] = []
    current = ""
    for node in traced.nodes:
        current = next((scope for scope in scopes(node) if scope in units), current)
        owner.append(current)
    first = next((name for name in owner if name), "")
    owner = [name or first for name in owner]
    found = []
    for cut in cuts:
        border = [position for position in cut.positions if owner[position - 1] != owner[position]]
        if border:
            found.append(Cut(cut.node, (border[-1],)))
    return found
