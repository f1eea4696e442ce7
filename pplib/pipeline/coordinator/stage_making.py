"""What each device is to compute, made for its runtime: a description of PyTorch's operations, or a graph."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from pplib.cache import weights_dir
from pplib.links import wire_parts
from pplib.model.exported.executorch_model import ExecutorchModel
from pplib.model.exported.int8 import quantised
from pplib.model.exported.onnx_model import OnnxModel, export
from pplib.model.partition import PartitionedModel
from pplib.model.ranges import Range, ranges
from pplib.model.stages.describe import describe
from pplib.model.stages.description import StageDescription
from pplib.model.weights.stored import WeightsFile
from pplib.pipeline.wire.plan import Encoding, ExportedStage, StageForm
from pplib.runtimes import Place, Precision, installed, runtime

if TYPE_CHECKING:
    import onnx

Computes = Callable[[torch.Tensor], torch.Tensor]


class StageMaker:
    """Makes the stages of one model, for any runtimes; the model is exported and quantised once, where one needs that.

    Args:
        partitioned: the model.
        batches: input microbatches (B, C, H, W).
        weights: the file of its tensors.
        name: of the model, in messages.

    Attributes:
        files: of weights, that a device needs for the stages that were made.
    """

    def __init__(
        self, partitioned: PartitionedModel, batches: Sequence[torch.Tensor], weights: WeightsFile, name: str
    ) -> None:
        self._partitioned, self._batches, self._name = partitioned, batches, name
        self._weights = weights
        self.files = dict[str, WeightsFile]()

    @functools.cached_property
    def _exported(self) -> onnx.ModelProto:
        return export(self._partitioned, self._batches[0], self._name)

    @functools.cached_property
    def _float32(self) -> OnnxModel:
        return OnnxModel(copy.deepcopy(self._exported), self._weights)

    @functools.cached_property
    def _int8(self) -> OnnxModel:
        return OnnxModel(quantised(self._exported, self._batches, self._name))

    @functools.cache  # noqa: B019 (as long as the model)
    def _executorch(self, int8: bool) -> ExecutorchModel:
        return ExecutorchModel(self._partitioned, self._batches, self._weights, self._name, int8)

    def make(
        self,
        points: Sequence[int],
        runtimes: Sequence[str],
        precision: Precision,
        modules: Sequence[nn.Module] | None = None,
    ) -> tuple[StageForm, ...]:
        """The stages between `points`, each for its runtime; `modules`: the same as modules, where they are there.

        Raises:
            PartitionError: the points are not valid.
            ModelError: a stage cannot be described or exported.
        """
        stages = self._partitioned.stages(points) if modules is None else modules
        borders = itertools.pairwise((0, *points, len(self._partitioned.points) - 1))
        return tuple(
            self.between(*border, name, precision, stage)
            for stage, border, name in zip(stages, borders, runtimes, strict=True)
        )

    def between(
        self, first: int, last: int, name: str, precision: Precision, module: nn.Module | None = None
    ) -> StageForm:
        """The units after point `first` up to point `last`, for one runtime; `module`: the same, where it is there.

        Raises:
            ModelError: it cannot be described or exported.
        """
        if runtime(name).FORM == "operations":
            return self._described(self._partitioned.between(first, last) if module is None else module)
        return self._cut(name, precision, first, last)

    @functools.cached_property
    def _ranges(self) -> list[Range | None]:
        return ranges(self._partitioned, self._batches, self._name)

    def encodings(self, points: Sequence[int], wire: str) -> tuple[Encoding, ...]:
        """How the activations at `points` cross their hops, for a wire type; empty where they do as they are.

        Raises:
            ModelError: a value is not finite, and has no range.
        """
        kind, compression = wire_parts(wire)
        if (kind, compression) == ("float32", ""):
            return ()
        found = [self._ranges[point] if kind == "int8" else None for point in points]
        return tuple(Encoding(kind, compression, *(one or ((), ()))) for one in found)

    def _described(self, stage: nn.Module) -> StageDescription:
        self.files[self._weights.sha256] = self._weights
        return described([stage])[0]

    def _cut(self, name: str, precision: Precision, first: int, last: int) -> ExportedStage:
        int8, onnx = precision == "int8", runtime(name).FORM == "onnx"
        model = self._executorch(int8) if not onnx else self._int8 if int8 else self._float32
        graph, num_bytes, file = model.stage(first, last)
        self.files[file.sha256] = file
        return ExportedStage(name, precision, graph, file.sha256, num_bytes)


def computing(forms: Sequence[StageForm], modules: Sequence[nn.Module]) -> list[Computes] | None:
    """The stages as functions on this machine, to be proven; None where it lacks the runtime of one.

    Args:
        forms: the stages as devices get them.
        modules: the same as modules of PyTorch.
    """
    found = list[Computes]()
    for form, module in zip(forms, modules, strict=True):
        if not isinstance(form, ExportedStage):
            found.append(module)
        elif form.runtime in installed():
            found.append(_opened(form))
        else:
            return None
    return found


def _opened(form: ExportedStage) -> Computes:
    if not form.graph:
        return lambda value: value
    place = Place(torch.get_num_threads(), "cpu", form.precision)
    stage = runtime(form.runtime).open_stage(form.graph, weights_dir(), place)
    return lambda value: torch.from_numpy(stage(value.numpy()))


def described(stages: Sequence[nn.Module]) -> tuple[StageDescription, ...]:
    """Stages as plain data, as devices get them.

    Raises:
        ModelError: something in one has no name that a device knows.
    """
    return tuple(describe(stage) for stage in stages if isinstance(stage, fx.GraphModule))
