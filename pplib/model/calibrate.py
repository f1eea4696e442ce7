"""The model room: batch-norm statistics that make a random network behave like a trained one."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pplib.errors import ModelError

_BATCH_SIZE = 4


def calibrate_batch_norm(model: nn.Module, shape: tuple[int, int, int], seed: int = 0) -> None:
    """Set the running statistics of untouched batch-norm layers from one seeded batch, in place.

    Layers that have seen data (`num_batches_tracked` > 0, as in a trained model) keep theirs.

    Args:
        model: eval-mode module on the CPU.
        shape: (C, H, W) of one image.
        seed: of the batch, standard normal like normalised images.
    """
    fresh = [module for module in model.modules() if isinstance(module, _BatchNorm) and _is_untouched(module)]
    if not fresh:
        return
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randn((_BATCH_SIZE, *shape), generator=generator)
    momenta = [module.momentum for module in fresh]
    try:
        for module in fresh:
            module.train()
            module.momentum = None  # a cumulative average: after one batch, that batch's own statistics
        with torch.no_grad():
            model(batch)
    except (RuntimeError, ValueError, TypeError) as exc:
        raise ModelError(
            f"{type(model).__name__}: does not run on a batch of shape {tuple(batch.shape)}: {exc}; "
            "a model of your own says what it takes by the attribute `input_shape` of its function"
        ) from exc
    finally:
        for module, momentum in zip(fresh, momenta, strict=True):
            module.eval()
            module.momentum = momentum


def _is_untouched(module: _BatchNorm) -> bool:
    tracked = module.num_batches_tracked
    return module.track_running_stats and tracked is not None and int(tracked) == 0
