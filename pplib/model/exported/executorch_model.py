"""The model room: stages as ExecuTorch programs. The whole is exported once; a stage is cut out, and lowered."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from pplib.errors import ConfigError, ModelError
from pplib.model.exported.whole import Units, cause
from pplib.model.partition import PartitionedModel
from pplib.model.weights.files import save_content
from pplib.model.weights.stored import WeightsFile

_APART = "weights"  # the mark of tensors that are kept in a file beside the program
_CONVOLUTIONS = tuple(getattr(torch.ops.aten, f"conv{n}d").default for n in (1, 2, 3))
_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


class ExecutorchModel:
    """A model of which stages are cut and lowered to XNNPACK.

    Args:
        partitioned: the model.
        batches: input microbatches (B, C, H, W); programs take inputs of the first one's shape.
        known: a file of weights for stages that have none of their own.
        name: of the model, in messages.
        int8: whether it is quantised, calibrated on the batches.

    Raises:
        ModelError: the model cannot be exported or quantised; says why, and how to go on.
        ConfigError: what exports is not installed.
    """

    def __init__(
        self,
        partitioned: PartitionedModel,
        batches: Sequence[torch.Tensor],
        known: WeightsFile,
        name: str,
        int8: bool = False,
    ) -> None:
        self._points, self._name, self._int8 = partitioned.points, name, int8
        with self._making("exported to ExecuTorch", "runtime: eager` needs no export"):
            # Functional: an operation that writes into a value at a cut would be in neither stage.
            program = torch.export.export(Units(partitioned).eval(), (batches[0],)).run_decompositions({})
            self._whole: fx.GraphModule = program.module(check_guards=False)
        if int8:
            with self._making("quantised to int8", "precision: float32` needs no quantisation"):
                self._whole = quantised(self._whole, batches)
        (source,) = (node for node in self._whole.graph.nodes if node.op == "placeholder")
        self._values = [source, *self._whole.graph.output_node().all_input_nodes]
        self._made = dict[tuple[int, int], tuple[bytes, int, WeightsFile]]()
        self._file, self._content = known, dict[str, str]()
        self.stage(0, len(self._points) - 1)

    def stage(self, first: int, last: int) -> tuple[bytes, int, WeightsFile]:
        """The units after point `first` up to point `last`: a program, the bytes its tensors take, and their file.

        That is one file for all stages; but for those that have other tensors than the whole has, as where a cut parts
        a convolution from its batch-norm. The program comes after a line with its name. Empty where the stage is.

        Raises:
            ModelError: it cannot be lowered, or has an operation that the runtime lacks, which is named.
        """
        if first == last or self._values[first] is self._values[last]:
            return b"", 0, self._file
        if (first, last) not in self._made:
            with self._making("exported to ExecuTorch", "runtime: eager` needs no export"):
                self._made[first, last] = self._lowered(first, last)
                _forget()
        return self._made[first, last]

    def _lowered(self, first: int, last: int) -> tuple[bytes, int, WeightsFile]:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

        stage = self._cut(first, last)
        if not self._int8:
            _fold(stage)
        _mark(stage)
        start = self._points[first]
        example = torch.zeros(start.activation_shape, dtype=getattr(torch, start.activation_dtype))
        exported = torch.export.export(stage, (example,))
        made: Any = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch(
            ExecutorchBackendConfig(external_constants=lambda node: _APART)
        )
        _check_operations(made)
        data = made._named_data  # no public name tells which tensors are where
        apart = data.external_data.get(_APART, {})
        num_bytes = sum(
            len(data.buffers[i]) for i in {one.buffer_index for one in [*apart.values(), *data.pte_data.values()]}
        )
        if not apart:
            return b"\n" + made.buffer, num_bytes, self._file
        content = {key: hashlib.sha256(data.buffers[one.buffer_index]).hexdigest() for key, one in apart.items()}
        if not self._content.items() >= content.items():
            file = save_content(lambda path: _write(made._tensor_data[_APART], path), num_bytes)
            if not self._made:
                self._file, self._content = file, content
        else:
            file = self._file
        return file.path.name.encode() + b"\n" + made.buffer, num_bytes, file

    def _cut(self, first: int, last: int) -> fx.GraphModule:
        """What makes the value at point `last` of that at point `first`."""
        graph = fx.Graph()
        source, result = _unquantised(self._values[first]), self._values[last]
        copies = {source: graph.placeholder("x")}
        needed, left = set[fx.Node](), [result]
        while left:
            node = left.pop()
            if node is not source and node not in needed:
                needed.add(node)
                left += node.all_input_nodes
        for node in self._whole.graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                copies[node].meta.clear()  # of where it came from, which takes time to be copied again and again
        graph.output(copies[result])
        return fx.GraphModule(self._whole, graph)

    @contextlib.contextmanager
    def _making(self, what: str, instead: str) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of theirs, on themselves
                import executorch.exir  # noqa: F401
                import torchao  # noqa: F401

                with torch.no_grad():
                    yield
        except ImportError as exc:
            raise ConfigError(
                f"runtime: {exc.name} is not installed here, where programs are made for all devices: `pip install "
                "executorch`"
            ) from exc
        except ModelError as exc:
            raise ModelError(f"{self._name}: cannot be {what}: {exc}; `{instead}") from exc
        except Exception as exc:
            raise ModelError(f"{self._name}: cannot be {what}: {cause(exc)}; `{instead}") from exc


def quantised(whole: fx.GraphModule, batches: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The model with weights in int8, per channel, and activations in int8, per tensor, calibrated on images.

    It is quantised whole, by PyTorch's own tools with the rules of the XNNPACK backend; stages are cut out of that, so
    that all cuts compute the same.

    Source: https://docs.pytorch.org/ao/stable/pt2e_quantization/index.html
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    observed = prepare_pt2e(
        whole, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    )
    for batch in batches:
        observed(batch)
    found: fx.GraphModule = convert_pt2e(observed)
    return found


def _is(node: fx.Node, kind: str) -> bool:
    return str(node.target).startswith(f"quantized_decomposed.{kind}_")


def _unquantised(value: fx.Node) -> fx.Node:
    """The value that was quantised to give this one; itself where none was.

    What comes in at a cut is on the grid already: quantising it once more gives the integers that the stage before had.
    """
    if _is(value, "dequantize") and _is(value.all_input_nodes[0], "quantize"):
        return value.all_input_nodes[0].all_input_nodes[0]
    return value


def _fold(stage: fx.GraphModule) -> None:
    """Fold every batch-norm into the convolution before it, in place, where that goes nowhere else.

    XNNPACK would do that, too; but what it makes anew cannot be kept apart from the program.
    """
    from torchao.quantization.pt2e.utils import fold_bn_weights_into_conv_node

    for norm in list(stage.graph.nodes):
        if norm.target is not _NORM:
            continue
        before = norm.args[0]
        if before.target in _CONVOLUTIONS and len(before.users) == len(before.args[1].users) == 1:
            bias = before.args[2] if len(before.args) > 2 else None
            fold_bn_weights_into_conv_node(before, before.args[1], bias, norm, stage)
    stage.graph.eliminate_dead_code()
    stage.recompile()


def _mark(stage: fx.GraphModule) -> None:
    """Have the tensors of a stage be kept apart from its program: by a mark on each, and on what makes int8 of it."""
    constant = set[fx.Node]()
    for node in stage.graph.nodes:
        made = _is(node, "quantize") or _is(node, "dequantize")
        if node.op == "get_attr" or (made and constant.issuperset(node.all_input_nodes)):
            constant.add(node)
            node.meta["custom"] = {"delegate_constant_tag": _APART}


def _check_operations(made: Any) -> None:
    """Make sure that the runtime has what XNNPACK left to it."""
    from pplib.runtimes.executorch import native

    operators = (one for plan in made.executorch_program.execution_plan for one in plan.operators)
    names = {f"{one.name}.{one.overload}" if one.overload else one.name for one in operators}
    if missing := sorted(names - set(native()._get_operator_names())):
        raise ModelError(f"its runtime has no {', '.join(missing)}")


def _forget() -> None:
    """Let go of what caches would keep of every program, all of its weights, for as long as this process lives."""
    from executorch.exir.backend.utils import is_same_node
    from torch._subclasses import FakeTensorMode

    is_same_node.cache_clear()
    FakeTensorMode.cache_clear()
    gc.collect()


def _write(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        content.write_to_file(file)
