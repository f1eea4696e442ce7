"""The model room: making a random network behave like a trained one, in the scale of its activations."""

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


def wake_silent_layers(model: nn.Module) -> None:
    """Give random values to torchvision's zero-initialised weights and weight to its layer scales, in place.

    A head of zeros (vit) or blocks scaled by 1e-6 (convnext) would make the output blind to what
    happens before, and a proof that two outputs are equal worthless.

    Args:
        model: a freshly initialised module; draws from the global random state.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "layer_scale":
            nn.init.constant_(parameter, 0.5)
        elif parameter.dim() >= 2 and not parameter.any():
            nn.init.trunc_normal_(parameter, std=0.02)


def _is_untouched(module: _BatchNorm) -> bool:
    tracked = module.num_batches_tracked
    return module.track_running_stats and tracked is not None and int(tracked) == 0
