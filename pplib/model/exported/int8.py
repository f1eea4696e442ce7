"""The model room: an exported model quantised to int8, by ONNX Runtime's own static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pplib.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import onnx


def quantised(model: onnx.ModelProto, batches: Sequence[torch.Tensor], name: str) -> onnx.ModelProto:
    """The model with weights in int8, per channel, and activations in uint8, per tensor, calibrated on images.

    What quantises stands in the graph as pairs of QuantizeLinear and DequantizeLinear, which runtimes make integer
    arithmetic of. The value at a cut stays float32: how it travels is said by `wire`.

    Args:
        model: see `onnx_model.export`.
        batches: input microbatches (B, C, H, W), whose values decide the ranges: their smallest and largest.
        name: of the model, in messages.

    Raises:
        ModelError: it cannot be quantised.
        ConfigError: what quantises is not installed here.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    try:
        from onnxruntime import quantization
    except ImportError as exc:
        raise ConfigError(
            f"precision: {exc.name} is not installed here, where models are quantised for all devices: `pip install "
            "onnxruntime`"
        ) from exc

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[torch.Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {"P0": batch.contiguous().numpy()}

    import onnx

    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.ERROR)  # it writes its advice to the root's log
        with tempfile.TemporaryDirectory() as folder:
            whole, ready, done = (Path(folder, f"{step}.onnx") for step in ("whole", "ready", "done"))
            onnx.save(model, str(whole))
            quantization.quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)  # folds batch-norm
            quantization.quantize_static(
                str(ready),
                str(done),
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(str(done))
    except Exception as exc:
        line = next(iter(str(exc).splitlines()), "")
        raise ModelError(
            f"{name}: cannot be quantised to int8: {type(exc).__name__}: {line[:300]}; `precision: float32` needs no "
            "quantisation"
        ) from exc
    finally:
        logging.getLogger().setLevel(level)
