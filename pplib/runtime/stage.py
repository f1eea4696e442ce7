"""From a plan to a running stage: build it on the meta device, load its tensors, put it on its device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pplib.model.optimise import optimise
from pplib.model.partition import PartitionedModel
from pplib.model.weights import find_weights, load_stage_weights, verify_weights
from pplib.model.zoo import build_skeleton
from pplib.runtime.memory import memory_for
from pplib.runtime.plan import PipelinePlan, TensorSpec


@dataclass(frozen=True)
class BuiltStage:
    """A stage in memory. `runner` maps a CPU tensor to a CPU tensor and the ns spent on device copies."""

    plan: PipelinePlan
    stage_index: int
    runner: Callable[[torch.Tensor], tuple[torch.Tensor, int]]
    param_bytes: int
    build_s: float


class StageBuilder:
    """Builds stages of one worker; remembers the traced skeleton of the last model, which has no weights."""

    def __init__(self, torch_device: str) -> None:
        self._device = torch.device(torch_device)
        self._key: tuple[object, ...] = ()
        self._partitioned: PartitionedModel | None = None

    def build(self, plan: PipelinePlan, stage_index: int) -> BuiltStage:
        """Build stage `stage_index` of `plan`, holding the tensors of that stage and no others.

        Raises:
            ModelError: unknown model or point; weights missing, damaged or not of this model.
            WorkerError: there is not enough memory for it.
        """
        with memory_for(f"stage {stage_index} while it was built"):
            return self._build(plan, stage_index)

    def _build(self, plan: PipelinePlan, stage_index: int) -> BuiltStage:
        start = time.monotonic()
        empty = self._skeleton(plan).stage(plan.points, stage_index)
        weights = find_weights(plan.weights_sha256)
        verify_weights(weights)
        load_stage_weights(empty, weights)
        stage: nn.Module = optimise(empty) if plan.optimize else empty
        stage.eval().to(self._device)
        held = [*stage.parameters(), *stage.buffers()]
        runner = (
            _CudaRunner(stage, self._device, plan, stage_index)
            if self._device.type == "cuda"
            else _CpuRunner(stage, plan.tensors[stage_index + 1])
        )
        return BuiltStage(
            plan=plan,
            stage_index=stage_index,
            runner=runner,
            param_bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
            build_s=time.monotonic() - start,
        )

    def _skeleton(self, plan: PipelinePlan) -> PartitionedModel:
        key = (plan.model, plan.weights, plan.num_classes, plan.granularity, plan.tensors[0].shape)
        if self._partitioned is None or key != self._key:
            skeleton = build_skeleton(plan.model, plan.weights, plan.num_classes)
            example = torch.empty(plan.tensors[0].shape, device="meta")
            self._partitioned = PartitionedModel(skeleton, example, plan.granularity)
            self._key = key
        return self._partitioned


class _CpuRunner:
    def __init__(self, stage: nn.Module, out: TensorSpec) -> None:
        self._stage, self._format = stage, out.memory_format

    @torch.inference_mode()
    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        output = self._stage(tensor)
        return output.contiguous(memory_format=self._format), 0


class _CudaRunner:
    """Copies through pinned memory; every time is taken after the device has finished.

    Output buffers are used in turn, one more than can be in flight, so that one is never written
    while it is being sent.
    """

    def __init__(self, stage: nn.Module, device: torch.device, plan: PipelinePlan, stage_index: int) -> None:
        self._stage, self._device = stage, device
        self._out = plan.tensors[stage_index + 1]
        self._staged = plan.tensors[stage_index].allocate(pin=True)
        self._buffers = [self._out.allocate(pin=True) for _ in range(plan.in_flight + 1)]
        self._next = 0

    @torch.inference_mode()
    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        start = time.monotonic_ns()
        on_device = self._staged.copy_(tensor).to(self._device, non_blocking=True)
        torch.cuda.synchronize(self._device)
        copied = time.monotonic_ns() - start
        output = self._stage(on_device).contiguous(memory_format=self._out.memory_format)
        torch.cuda.synchronize(self._device)
        start = time.monotonic_ns()
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        buffer.copy_(output, non_blocking=True)
        torch.cuda.synchronize(self._device)
        return buffer, copied + time.monotonic_ns() - start
