"""Stages of eager PyTorch: made of their operations, and run on the CPU or on an accelerator with its own memory."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Protocol

import torch
from torch import nn

from pplib.model.stages.describe import build
from pplib.model.stages.description import StageDescription
from pplib.model.stages.optimise import optimise
from pplib.model.weights.files import load_stage_weights
from pplib.model.weights.stored import verified_weights
from pplib.pipeline.process.memory import check_room
from pplib.pipeline.stage.runners import Runner
from pplib.pipeline.stage.tensors import array_of, memory_format, tensor_of, torch_dtype
from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec
from pplib.runtimes import Array


class Accelerator(Protocol):
    """The few calls by which a device with memory of its own differs from the CPU. Copies may still be
    under way when they return: what they copied may be read or changed after `synchronise`, not before.
    """

    def pinned(self, spec: TensorSpec) -> torch.Tensor:
        """Memory of the host for one such tensor, from and into which the device copies."""

    def upload(self, pinned: torch.Tensor) -> torch.Tensor:
        """Begin to copy into the device's memory; the tensor that will hold it there."""

    def download(self, tensor: torch.Tensor, pinned: torch.Tensor) -> None:
        """Begin to copy from the device's memory into `pinned`."""

    def synchronise(self) -> None:
        """Return when all that was begun on the device is done."""


class Cuda:
    """A CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def pinned(self, spec: TensorSpec) -> torch.Tensor:
        """See Accelerator."""
        return torch.empty(spec.shape, dtype=torch_dtype(spec), memory_format=memory_format(spec), pin_memory=True)

    def upload(self, pinned: torch.Tensor) -> torch.Tensor:
        """See Accelerator."""
        return pinned.to(self._device, non_blocking=True)

    def download(self, tensor: torch.Tensor, pinned: torch.Tensor) -> None:
        """See Accelerator."""
        pinned.copy_(tensor, non_blocking=True)

    def synchronise(self) -> None:
        """See Accelerator."""
        torch.cuda.synchronize(self._device)


class CpuRunner:
    """Runs a stage where its input is."""

    def __init__(self, stage: nn.Module, out: TensorSpec) -> None:
        self._stage, self._format = stage, memory_format(out)

    @torch.inference_mode()
    def __call__(self, array: Array) -> tuple[Array, int]:
        """See Runner."""
        return array_of(_laid_out(self._stage(tensor_of(array)), self._format)), 0


class InBfloat16(nn.Module):
    """A stage that computes in bfloat16; what goes in and comes out stays what it is."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage.to(torch.bfloat16)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Runner."""
        output: torch.Tensor = self.stage(tensor.to(torch.bfloat16))
        return output.to(tensor.dtype)


class AcceleratorRunner:
    """Copies through pinned memory; every time is taken after the device has finished.

    Output buffers are used in turn, one more than can be in flight, so that none is written while it
    is being sent.
    """

    def __init__(self, stage: nn.Module, accelerator: Accelerator, plan: PipelinePlan, stage_index: int) -> None:
        self._stage, self._accelerator = stage, accelerator
        self._out = plan.tensors[stage_index + 1]
        self._staged = accelerator.pinned(plan.tensors[stage_index])
        self._buffers = [accelerator.pinned(self._out) for _ in range(plan.in_flight + 1)]
        self._next = 0

    @torch.inference_mode()
    def __call__(self, array: Array) -> tuple[Array, int]:
        """See Runner."""
        start = time.monotonic_ns()
        on_device = self._accelerator.upload(self._staged.copy_(tensor_of(array)))
        self._accelerator.synchronise()
        copied = time.monotonic_ns() - start
        output = _laid_out(self._stage(on_device), memory_format(self._out))
        self._accelerator.synchronise()
        if (tuple(output.shape), output.dtype) != (self._out.shape, torch_dtype(self._out)):
            # A buffer would hide it by broadcasting or converting: the loop refuses it.
            return array_of(output.cpu()), copied
        start = time.monotonic_ns()
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        self._accelerator.download(output, buffer)
        self._accelerator.synchronise()
        return array_of(buffer), copied + time.monotonic_ns() - start


def make_stage(
    description: StageDescription, plan: PipelinePlan, stage_index: int, torch_device: str, threads: int
) -> tuple[Runner, int]:
    """A described stage with its tensors, on its device; what runs it, and the bytes of what it holds.

    Raises:
        ModelError: the description names what no stage may have; weights missing, damaged or not of this model.
        NoRoomError: there is not enough memory for its weights.
    """
    _settle(threads)
    device = torch.device(torch_device)
    empty = build(description, device)
    if device.type == "cpu":
        check_room(_held_bytes(empty), f"stage {stage_index}")
    load_stage_weights(empty, verified_weights(plan.weights_sha256))
    stage: nn.Module = optimise(empty) if plan.optimize else empty
    stage.eval().to(device)
    if plan.precision == "bfloat16":
        stage = InBfloat16(stage)
    return make_runner(stage, device, plan, stage_index), _held_bytes(stage)


def _held_bytes(stage: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*stage.parameters(), *stage.buffers()))


def _settle(threads: int) -> None:
    """What holds for all of PyTorch's arithmetic in this process."""
    use_ieee_precision()
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # set before: it can be once
        torch.set_num_interop_threads(1)


def make_runner(stage: nn.Module, device: torch.device, plan: PipelinePlan, stage_index: int) -> Runner:
    """The runner of stage `stage_index` of `plan`, whose module is on `device` already."""
    if device.type == "cuda":
        return AcceleratorRunner(stage, Cuda(device), plan, stage_index)
    return CpuRunner(stage, plan.tensors[stage_index + 1])


def use_ieee_precision() -> None:
    """Have float32 arithmetic be float32: TF32 and bfloat16 inside it would differ between devices by 1e-3.

    What was set for one kind of operation, by whatever ran in this process before, outdoes what is set for all.
    """
    every: Any = torch.backends  # its type stubs do not know the precision
    with contextlib.suppress(RuntimeError):  # set already by what follows
        every.cudnn.allow_tf32 = False  # the older word for it: torch.export asks for that, too, and both must agree
    every.fp32_precision = "ieee"
    for library in (every.cudnn, every.mkldnn):
        library.fp32_precision = library.conv.fp32_precision = library.rnn.fp32_precision = "ieee"
    every.cuda.matmul.fp32_precision = every.mkldnn.matmul.fp32_precision = "ieee"


def _laid_out(output: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    if layout is torch.channels_last and output.dim() != 4:
        return output  # not what the plan says: the loop refuses it by its shape
    return output.contiguous(memory_format=layout)
