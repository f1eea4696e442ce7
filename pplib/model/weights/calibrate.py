"""The model room: making a random network behave like a trained one, in the scale of its activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pplib.errors import ModelError

_BATCH_SIZE = 4


def calibrate_batch_norm(
    model: nn.Module, shape: tuple[int, int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> None:
    """Set the running statistics of untrained batch-norm layers from one seeded batch, in place.

    Untrained is a layer whose statistics are exactly those it was made with, mean 0 and variance 1,
    whatever `num_batches_tracked` says: old files lack it, and whoever sets statistics does not count.
    All others keep theirs, and so does a class that overrides `train()`, as frozen ones do. No
    layer is put into training mode, and nothing but the two statistics is written.

    Args:
        model: eval-mode module on the CPU.
        shape: (C, H, W) of one image.
        seed: of the batch, standard normal like normalised images; bytes are uniform.
        dtype: what the model takes.

    Raises:
        ModelError: the model does not run on such a batch.
    """
    untrained = [module for module in model.modules() if isinstance(module, _BatchNorm) and _is_untrained(module)]
    if not untrained:
        return
    generator = torch.Generator().manual_seed(seed)
    size = (_BATCH_SIZE, *shape)
    if dtype == torch.uint8:
        batch = torch.randint(0, 256, size, generator=generator, dtype=dtype)
    else:
        batch = torch.randn(size, generator=generator).to(dtype)
    hooks = [module.register_forward_pre_hook(_Estimate(), with_kwargs=True) for module in untrained]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model(batch)
    except (RuntimeError, ValueError, TypeError) as exc:
        raise ModelError(
            f"{type(model).__name__}: does not run on a batch of shape {tuple(batch.shape)}, {batch.dtype}: {exc}; "
            "a model of your own says what it takes by the attribute `input_shape` of its function"
        ) from exc
    finally:
        for hook in hooks:
            hook.remove()


class _Estimate:
    """Gives a layer the statistics of what comes in, before it uses them; the mean over its calls."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, _BatchNorm)
        value: torch.Tensor = (args[0] if args else next(iter(kwargs.values()))).float()
        variance, mean = torch.var_mean(value, [dim for dim in range(value.dim()) if dim != 1])
        self._calls += 1
        for kept, new in ((module.running_mean, mean), (module.running_var, variance)):
            assert kept is not None
            kept.copy_(new if self._calls == 1 else kept + (new - kept) / self._calls)


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


def _is_untrained(module: _BatchNorm) -> bool:
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None or not module.track_running_stats:
        return False
    return type(module).train is nn.Module.train and not mean.any() and bool((variance == 1).all())
