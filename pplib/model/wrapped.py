"""The model room: modules as people hand them over: wrapped, not yet initialised, or of a kind that cannot be cut."""

from __future__ import annotations

import keyword
import sys

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from pplib.errors import ModelError

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def unwrapped(model: nn.Module) -> nn.Module:
    """`model` without DataParallel and torch.compile around it or around parts of it.

    Functions under torch.compile run as they were written from now on, in all of this process.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    model = _inner(model)
    for module in list(model.modules()):
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _inner(child)
    return model


def _inner(module: nn.Module) -> nn.Module:
    kind = type(module)
    if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
        return unwrapped(module.module)  # type: ignore[arg-type]
    if kind.__name__ == "OptimizedModule" and kind.__module__.startswith("torch._dynamo"):
        return unwrapped(module._orig_mod)  # type: ignore[arg-type]
    return module


def check_kind(name: str, model: nn.Module) -> None:
    """Refuse what no stage can be made of.

    Raises:
        ModelError: TorchScript, a program of torch.export, quantized layers, tensors without values (on the meta
            device), or names that cannot stand in the text of a function.
    """
    for path, _ in model.named_modules():
        own = path.rpartition(".")[2]
        if own == "self" or keyword.iskeyword(own) or any(sign in own for sign in "\"'\\\n\r"):
            raise ModelError(
                f"{name}: a layer is called {path!r}, and {own!r} cannot stand in the text of a function: rename it"
            )
    try:
        model.eval()
    except NotImplementedError as exc:
        raise ModelError(
            f"{name}: the model cannot be put into eval mode ({exc}): return the Python module that it was made from, "
            "not a program of torch.export"
        ) from exc
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ModelError(
                f"{name}: {path} has no values (it is on the meta device): make the model without "
                "torch.device('meta'), or load its weights where it is made, by load_state_dict(..., assign=True)"
            )
    for path, module in model.named_modules():
        where = f"{name}: {path or 'the model'}"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is TorchScript, which cannot be cut: return the Python module it was made from")
        if "quantized" in type(module).__module__.split(".") and type(module).__module__.startswith("torch."):
            raise ModelError(
                f"{where} is quantized ({type(module).__name__}): quantized layers cannot be cut or sent: return the "
                "model as it is before quantization"
            )


def initialise(name: str, model: nn.Module, example: torch.Tensor) -> None:
    """Give lazy layers their shapes by one forward pass.

    Raises:
        ModelError: the model does not run on `example`.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if not any(isinstance(tensor, (UninitializedParameter, UninitializedBuffer)) for tensor in tensors):
        return
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as exc:
        raise ModelError(
            f"{name}: its lazy layers get their shapes from a first batch, and it does not run on one of shape "
            f"{tuple(example.shape)}: {type(exc).__name__}: {exc}; the attribute `input_shape` of the function says "
            "what it takes"
        ) from exc
