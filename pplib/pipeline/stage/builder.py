"""From a plan to a running stage: build it on the meta device, load its tensors, put it on its device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from pplib.errors import ModelError
from pplib.model.stages.description import StageDescription, build
from pplib.model.stages.optimise import optimise
from pplib.model.weights.files import find_weights, load_stage_weights, verify_weights
from pplib.pipeline.process.memory import memory_for
from pplib.pipeline.stage.runners import ExportedRunner, InBfloat16, Runner, make_runner, use_ieee_precision
from pplib.pipeline.wire.plan import ExportedStage, PipelinePlan, TensorSpec
from pplib.runtimes import Place, runtime


@dataclass(frozen=True)
class BuiltStage:
    """A stage in memory."""

    plan: PipelinePlan
    stage_index: int
    runner: Runner
    param_bytes: int
    build_s: float


class StageBuilder:
    """Builds the stages of one worker."""

    def __init__(self, torch_device: str) -> None:
        use_ieee_precision()
        self._device = torch.device(torch_device)

    def build(self, plan: PipelinePlan, stage_index: int) -> BuiltStage:
        """Build stage `stage_index` of `plan`, holding the tensors of that stage and no others.

        Raises:
            ModelError: the description names what no stage may have; weights missing, damaged or not of this model.
            WorkerError: there is not enough memory for it.
        """
        with memory_for(f"stage {stage_index} while it was built"):
            return self._build(plan, stage_index)

    def _build(self, plan: PipelinePlan, stage_index: int) -> BuiltStage:
        start = time.monotonic()
        if not 0 <= stage_index < min(len(plan.stages), len(plan.tensors) - 1):
            raise ModelError(f"stage {stage_index} of a plan that describes {len(plan.stages)}")
        stage = plan.stages[stage_index]
        if isinstance(stage, ExportedStage):
            runner, param_bytes = self._opened(stage, plan.tensors[stage_index + 1])
        else:
            runner, param_bytes = self._made(stage, plan, stage_index)
        return BuiltStage(plan, stage_index, runner, param_bytes, build_s=time.monotonic() - start)

    def _made(self, description: StageDescription, plan: PipelinePlan, stage_index: int) -> tuple[Runner, int]:
        """A module of PyTorch's."""
        empty = build(description, self._device)
        weights = find_weights(plan.weights_sha256)
        verify_weights(weights)
        load_stage_weights(empty, weights)
        stage: nn.Module = optimise(empty) if plan.optimize else empty
        stage.eval().to(self._device)
        if plan.precision == "bfloat16":
            stage = InBfloat16(stage)
        held = [*stage.parameters(), *stage.buffers()]
        param_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
        return make_runner(stage, self._device, plan, stage_index), param_bytes

    def _opened(self, stage: ExportedStage, out: TensorSpec) -> tuple[Runner, int]:
        """A graph of another runtime."""
        if not stage.graph:
            return ExportedRunner(None, out), 0
        weights = find_weights(stage.weights_sha256)
        verify_weights(weights)
        place = Place(torch.get_num_threads(), str(self._device), stage.precision)
        opened = runtime(stage.runtime).open_stage(stage.graph, weights.path.parent, place)
        return ExportedRunner(opened, out), stage.param_bytes
