"""The arrays that cross a pipeline as PyTorch's tensors, and back; memory is shared, not copied."""

from __future__ import annotations

import torch

from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array


def torch_dtype(spec: TensorSpec) -> torch.dtype:
    """The dtype of a spec as torch has it."""
    assert spec.array_dtype  # it is known
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def memory_format(spec: TensorSpec) -> torch.memory_format:
    """The layout of a spec as torch has it."""
    return torch.channels_last if spec.layout == "channels_last" else torch.contiguous_format


def tensor_of(array: Array) -> torch.Tensor:
    """An array of a pipeline as a tensor: what numpy has as 16 bits, and nothing else is, is bfloat16."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def array_of(tensor: torch.Tensor) -> Array:
    """A tensor in the host's memory as an array of a pipeline."""
    array: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
