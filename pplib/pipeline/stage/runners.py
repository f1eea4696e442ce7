"""What runs a built stage on a microbatch: on the CPU, or on an accelerator with memory of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec
from pplib.runtimes import Stage

Runner = Callable[[torch.Tensor], tuple[torch.Tensor, int]]
"""Maps a CPU tensor to a CPU tensor and the ns spent on copies to and from the device.

What it returns may lie in memory that it, or whoever gave the input, uses again: it is good until
`in_flight` more microbatches have been run, and as long as its input is left alone.
"""


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
        return spec.allocate(pin=True)

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
        self._stage, self._format = stage, out.memory_format

    @torch.inference_mode()
    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See Runner."""
        return _laid_out(self._stage(tensor), self._format), 0


class InBfloat16(nn.Module):
    """A stage that computes in bfloat16; what goes in and comes out stays what it is."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage.to(torch.bfloat16)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Runner."""
        output: torch.Tensor = self.stage(tensor.to(torch.bfloat16))
        return output.to(tensor.dtype)


class ExportedRunner:
    """Runs a stage that another runtime has opened; None is the empty stage."""

    def __init__(self, stage: Stage | None, out: TensorSpec) -> None:
        self._stage, self._format = stage, out.memory_format

    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See Runner."""
        output = tensor if self._stage is None else torch.from_numpy(self._stage(tensor.numpy()))
        return _laid_out(output, self._format), 0


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
    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See Runner."""
        start = time.monotonic_ns()
        on_device = self._accelerator.upload(self._staged.copy_(tensor))
        self._accelerator.synchronise()
        copied = time.monotonic_ns() - start
        output = _laid_out(self._stage(on_device), self._out.memory_format)
        self._accelerator.synchronise()
        if (tuple(output.shape), output.dtype) != (self._out.shape, self._out.torch_dtype):
            return output, copied  # a buffer would hide it by broadcasting or converting: the loop refuses it
        start = time.monotonic_ns()
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        self._accelerator.download(output, buffer)
        self._accelerator.synchronise()
        return buffer, copied + time.monotonic_ns() - start


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
