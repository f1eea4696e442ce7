"""The model room: whether stages compute what the model computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import fx, nn

from pplib.errors import ModelError, PartitionError


def tolerance_of(dtypes: Iterable[torch.dtype]) -> float:
    """Three times the square root of the coarsest dtype's eps: 1e-3 in float32, 0.09 in half precision.

    Folding and another order of additions change some of the last digits at each layer; the errors
    grow with the depth, and half of the digits are left for that.
    """
    eps = [torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point]
    return float(3 * max(eps, default=torch.finfo(torch.float32).eps) ** 0.5)


def allowed_error(output: torch.Tensor, tolerance: float) -> float:
    """The largest absolute difference from `output` that rounding may make.

    That is `tolerance`, relative to the largest value; and where all are small, as probabilities of many classes
    are, no less than 30 eps (as `tolerance_of` has it), which is what rounding makes of values of about 1 before.

    >>> f"{allowed_error(torch.tensor([0.2, -8.0]), 1e-3):.1g}, {allowed_error(torch.tensor([1e-3]), 1e-3):.1g}"
    '0.008, 3e-06'
    """
    eps = (tolerance / 3) ** 2
    return max(tolerance * float(output.double().abs().max()), 30 * eps)


class Reference:
    """The output of a whole model on one batch, with which that of stages is compared.

    Args:
        model: the whole, with real weights; it is run once.
        batch: (B, C, H, W); it is not written to.
        tolerance: `PartitionedModel.tolerance`; None goes by the dtypes of weights, input and output.
        name: of the model, in messages.

    Raises:
        ModelError: the output is empty or not finite.
        PartitionError: the model has no weights (meta device).
    """

    def __init__(self, model: nn.Module, batch: torch.Tensor, tolerance: float | None = None, name: str = "") -> None:
        self._model, self._batch, self._name = model, batch, name or type(model).__name__
        self._output = _run([model], batch, 1)
        if self._output.is_meta:
            raise PartitionError(f"{self._name}: the model has no weights (it is on the meta device)")
        if not self._output.numel():
            raise ModelError(
                f"{self._name}: its output is empty, {tuple(self._output.shape)}: there is nothing to compare"
            )
        if not bool(self._output.isfinite().all()):
            raise ModelError(
                f"{self._name}: its output holds values that are not finite ({_odd(self._output)}), with which nothing "
                "can be compared: look at the weights and at the range of the inputs, or leave such values out"
            )
        if tolerance is None:
            tensors = [*model.parameters(), *model.buffers(), batch, self._output]
            tolerance = tolerance_of(tensor.dtype for tensor in tensors)
        self._limit = allowed_error(self._output, tolerance)

    def check_repeats(self) -> None:
        """Run the model once more.

        Raises:
            ModelError: it gives another output.
        """
        again = self._error(_run([self._model], self._batch, 2))
        if not again <= self._limit:
            raise ModelError(
                f"{self._name}: the model itself differs from one call to the next, by {again:.3g} on the same input: "
                "random operations (dropout that stays on: F.dropout without training=self.training), or what it "
                "keeps from call to call; no cut can be compared with it: turn that off in eval mode"
            )

    def check(self, stages: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> float:
        """Largest absolute difference between the composed `stages`, in order, and the model.

        Raises:
            ModelError: the model itself gives another output when it is called again.
            PartitionError: shapes differ, a value is not finite, or the difference exceeds `allowed_error`.
        """
        value = _run(stages, self._batch, 2)
        if value.is_meta:
            raise PartitionError(f"{self._name}: a stage has no weights (it is on the meta device)")
        error = self._error(value)
        if error <= self._limit:
            return error
        self.check_repeats()
        shapes = f"shape {tuple(value.shape)}, the model's is {tuple(self._output.shape)}"
        told = shapes if value.shape != self._output.shape else f"largest absolute difference {error:.3g}"
        raise PartitionError(
            f"{self._name}: the composed stages do not compute what the model computes: {told}, "
            f"allowed {self._limit:.3g}; the stages must be of this model, with these weights"
        )

    def _error(self, value: torch.Tensor) -> float:
        if value.shape != self._output.shape:
            return float("inf")
        return float((value.double() - self._output.double()).abs().max())


def reference_of(
    model: nn.Module, batch: torch.Tensor, fixed: bool, tolerance: float | None = None, name: str = ""
) -> Reference:
    """The reference on the first image of a batch; on all of it where stages are `fixed` or one is too few.

    Raises:
        ModelError, PartitionError: as `Reference`.
    """
    if not fixed:
        with contextlib.suppress(PartitionError):  # statistics of a batch, a hidden state for one of this size
            return Reference(model, batch[:1], tolerance, name)
    return Reference(model, batch, tolerance, name)


@torch.inference_mode()
def _run(modules: Sequence[Callable[[torch.Tensor], torch.Tensor]], batch: torch.Tensor, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value = batch.clone()
        for module in modules:
            try:
                value = module(value)
            except Exception as exc:
                what = "a stage" if isinstance(module, fx.GraphModule) else "the model"
                raise PartitionError(
                    f"{what} cannot be run on a batch of shape {tuple(batch.shape)}, {batch.dtype}, although it was "
                    f"traced on one: {type(exc).__name__}: {next(iter(str(exc).splitlines()), '')}"
                ) from exc
            if issubclass(type(value), fx.Proxy):
                raise ModelError(
                    "forward() uses what an earlier call made of an input (a cache outside the model, such as "
                    "functools.lru_cache): make it anew in each call, or keep it in an attribute of the module"
                )
    return value


def _odd(output: torch.Tensor) -> str:
    kinds = {"nan": output.isnan().any(), "inf": output.isinf().any()}
    return " and ".join(kind for kind, there in kinds.items() if there)
