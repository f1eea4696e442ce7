"""The model room: torch.fx tracing with the example's values at hand, so that what depends on shapes is decided."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import fx, nn
from torch.fx import _symbolic_trace
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, is_tensor_method_or_property
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pplib.errors import ModelError
from pplib.model.tracing.operations import is_known, is_plain_layer, learn_operations
from pplib.model.tracing.outputs import one_tensor
from pplib.model.tracing.patches import attributes, python_told, restore
from pplib.model.tracing.proxies import ValueProxy, holds_tensor, known_of, memory_of, proxies_in, values_of

# Methods of a tensor that tell what it is, not what is in it.
_OF_SHAPE = frozenset(
    "size dim ndimension numel nelement stride storage_offset element_size is_contiguous is_floating_point is_complex "
    "is_signed is_inference is_same_size get_device type __len__ data_ptr".split()
)
_OF_SHAPE_FUNCTIONS = (getattr, len, torch.numel, torch.is_floating_point, torch.is_complex, torch.is_tensor)


@dataclass(frozen=True)
class NodeFacts:
    """What running the example showed of a node: its value, and what it does to the memory of others.

    `aliases` and `mutates` hold the names of input nodes whose memory the value shares, or whose
    memory the operation overwrites.
    """

    shape: tuple[int, ...] | None  # None: the value is no tensor
    dtype: torch.dtype | None
    num_bytes: int
    aliases: frozenset[str]
    mutates: frozenset[str]


class ConcreteTracer(fx.Tracer):
    """Traces one module on one example.

    Every operation is run as it is recorded. What a program asks of shapes (`if`, `range`, `assert`, `len`) gets the
    example's answer; what it asks of a tensor's content raises ValueReadError, unless that is computed from weights
    alone. Functions marked by `torch.fx.wrap` are traced through.

    Attributes:
        facts: of every node, by name.
        tensors: constants that forward() makes, by the name that the graph has for them.
        fixed: whether a shape's number was taken as it is in the example, so that the graph may be of this shape only.
    """

    # A table looked up by a buffer (maxvit) stays an operation on weights, not a value frozen at tracing.
    proxy_buffer_attributes = True

    def __init__(self, example: torch.Tensor) -> None:
        super().__init__(autowrap_modules=(math,))
        self._example, self._running = example, False
        self.facts: dict[str, NodeFacts] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.fixed = False
        self._numbers: set[fx.Node] = set()
        self._kept: list[torch.Tensor] = []  # constants are known by identity: none may go while tracing
        self._device = "cpu" if example.is_meta else example.device.type
        self._before: Any = None

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of `root`, which is left as it was."""
        assert isinstance(root, nn.Module)
        learn_operations()
        saved = attributes(root)
        self._before = self._context()
        try:
            # What torch.fx.wrap marks is traced through: a device has no code of the user's to call.
            with mock.patch.dict(_symbolic_trace._wrapped_fns_to_patch, clear=True), python_told(), _Factories(self):
                self._outer_modes = _modes()
                graph = super().trace(root)
        finally:
            restore(saved)
        for node in reversed(graph.nodes):
            if node in self._numbers and not node.users:
                graph.erase_node(node)
        for node in graph.nodes:
            node.meta.pop("is_wrapped", None)  # fx would have the next trace look for it
            if node.name not in self.facts and node.op != "output":
                self._note(node, self._attribute(str(node.target)), {})
        return graph

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The one input; other arguments keep their defaults."""
        parameters = list(inspect.signature(self.root.forward).parameters.values())
        needed = [
            item
            for i, item in enumerate(parameters)
            if (i == 0 and item.kind is not item.KEYWORD_ONLY)
            or (item.default is item.empty and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD))
        ]
        if len(needed) != 1 and not self.root._forward_pre_hooks:
            names = ", ".join(item.name for item in needed)
            raise ModelError(
                f"{type(self.root).__name__}: forward() must take one tensor, it takes {len(needed)}"
                f"{f' ({names})' if names else ''}: make them of one where the model is made, e.g. by "
                "`model.register_forward_pre_hook(lambda module, inputs: inputs[0].chunk(2, dim=1))`"
            )
        name = needed[0].name if needed and needed[0].kind is not inspect.Parameter.VAR_POSITIONAL else "x"

        def whole(root: nn.Module, x: Any) -> Any:
            return one_tensor(root, root(x))

        return whole, [self.root, self.create_proxy("placeholder", name, (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of torch.nn as they are: no hooks, no parametrisation, nothing of others inside."""
        return module_qualified_name != "" and super().is_leaf_module(m, module_qualified_name) and is_plain_layer(m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """As fx, but nothing is recorded while a value is computed, and what forward() itself makes is traced through.

        Raises:
            ModelError: forward() put a layer into training mode.
        """
        if self._running or not any(m is one for one in self.root.modules()):
            return forward(*args, **kwargs)
        if m.training:
            name = self.path_of_module(m) or "itself"
            raise ModelError(
                f"{type(self.root).__name__}: {name} is in training mode when it is called, and devices only infer: "
                "leave .train() out of forward(), and have .eval() put all layers into eval mode"
            )
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """As fx, but nothing is recorded while a value is computed."""
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        """As fx; constants that forward() makes are kept here, not in the model, and NumPy's numbers are Python's."""
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, (np.number, np.bool_)):
            return a.item()
        if isinstance(a, torch.Tensor) and a not in self.tensor_attrs:
            own = itertools.chain(self.root.parameters(), self.root.buffers())
            if not any(a is tensor for tensor in own):
                name = f"_tensor_constant{len(self.tensors)}"
                # A parameter that is in no module's table is to others what any tensor is.
                self.tensors[name], self.tensor_attrs[a] = a.detach(), name
                self._kept.append(a)
                return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Record one operation and run it on the example's values."""
        proxies = proxies_in((args, kwargs))
        if kind in ("call_function", "call_method") and not is_known(kind, target):
            if not any(holds_tensor(proxy.value) for proxy in proxies):
                args, kwargs = known_of((args, kwargs))
                return (
                    getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)
                )
            raise ModelError(
                f"{type(self.root).__name__}: forward() calls {getattr(target, '__name__', target)}(), which is no "
                "operation on tensors that a stage can have: use others, or leave that part out of forward()"
            )
        self._check_modes(kind)
        value = None
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        inputs = {proxy.node: proxy.value for proxy in proxies}
        for one in node.all_input_nodes:
            if one not in inputs:
                inputs[one] = self._attribute(str(one.target))
        if (context := self._context()) != self._before:
            node.meta["autocast"] = context
        before = {one: memory_of(given) for one, given in inputs.items()}
        self._running = True
        try:
            value = self._run(kind, target, *values_of((args, kwargs), self._example.is_meta))
        except ModelError:
            raise
        except Exception as exc:
            exc.paretopipe_node = (node, list(inputs.values()))  # type: ignore[attr-defined]
            raise
        finally:
            self._running = False
        self._note(node, value, {one: (memory, inputs[one]) for one, memory in before.items()})
        from_input = kind == "placeholder" or any(proxy.from_input for proxy in proxies)
        told = not holds_tensor(value)
        if told and value is not None:
            self._numbers.add(node)
        of_content = told and any(proxy.from_input and holds_tensor(proxy.value) for proxy in proxies)
        of_shape = target in _OF_SHAPE if kind == "call_method" else target in _OF_SHAPE_FUNCTIONS
        measured = (of_content and not of_shape and value is not None) or any(proxy.measured for proxy in proxies)
        if told and not from_input and proxies and value is not None and not self._example.is_meta:
            return value  # a number computed from weights alone
        return ValueProxy(node, self, value, from_input, measured)

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.device("meta") if self._example.is_meta else contextlib.nullcontext():
            if kind == "placeholder":
                return self._example
            if kind == "get_attr":
                return self._attribute(str(target))
            if kind == "call_module":
                return self.root.get_submodule(str(target))(*args, **kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)

    def _attribute(self, name: str) -> Any:
        if name in self.tensors:
            value: Any = self.tensors[name]
        else:
            parent, _, own = name.rpartition(".")
            module = self.root.get_submodule(parent)
            table = next((t for t in (module._parameters, module._buffers, vars(module)) if own in t), {})
            value = table[own]
        return value.to("meta") if self._example.is_meta and isinstance(value, torch.Tensor) else value

    def _note(self, node: fx.Node, value: Any, inputs: dict[fx.Node, tuple[dict[int, int], Any]]) -> None:
        places = memory_of(value).keys()
        is_tensor = isinstance(value, torch.Tensor)
        mutates = frozenset(one.name for one, (memory, given) in inputs.items() if memory != memory_of(given))
        self.facts[node.name] = NodeFacts(
            shape=tuple(value.shape) if is_tensor else None,
            dtype=value.dtype if is_tensor else None,
            num_bytes=value.numel() * value.element_size() if is_tensor else 0,
            aliases=frozenset(one.name for one, (memory, _) in inputs.items() if places & memory.keys()),
            mutates=mutates,
        )
        if any(one.name in mutates and one.target in self.tensors for one in inputs):
            raise ModelError(
                f"{type(self.root).__name__}: forward() writes into a tensor that it made without looking at its "
                "input; make it with x.new_zeros(...) or torch.zeros_like(x), so that it is made anew for each input"
            )

    def _context(self) -> tuple[bool, str]:
        enabled = torch.is_autocast_enabled(self._device)
        return enabled, str(torch.get_autocast_dtype(self._device)).removeprefix("torch.") if enabled else ""

    def _check_modes(self, kind: str) -> None:
        entered = [mode for mode in _modes() if mode not in self._outer_modes]
        if entered and kind not in ("placeholder", "get_attr"):
            raise ModelError(
                f"{type(self.root).__name__}: forward() runs under {type(entered[-1]).__qualname__}, which changes "
                "what operations do and cannot be brought to a device: call the operations themselves"
            )


class _Factories(TorchFunctionMode):
    """Sees functions that take no tensor but numbers of a shape, such as torch.zeros(x.shape[0], 3)."""

    def __init__(self, tracer: ConcreteTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracer = self._tracer
        proxies = [] if tracer._running else proxies_in((args, kwargs))
        if not proxies or any(isinstance(proxy.value, torch.Tensor) for proxy in proxies):
            return func(*args, **kwargs)
        if func in _device_constructors():
            made = func(*values_of(args, False), **values_of(kwargs, False))
            kwargs = {**kwargs, "dtype": made.dtype, "device": made.device}
        method = is_tensor_method_or_property(func)
        return tracer.create_proxy(
            "call_method" if method else "call_function", func.__name__ if method else func, args, kwargs
        )


def _modes() -> list[Any]:
    """What changes the meaning of operations around us; a device to make tensors on is recorded with them."""
    functions: Any = _get_current_function_mode_stack
    modes = [*functions(), *_get_current_dispatch_mode_stack()]
    return [mode for mode in modes if not isinstance(mode, (DeviceContext, _Factories))]
