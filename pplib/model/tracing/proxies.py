"""The model room: what forward() sees while it is traced: proxies that know the example's values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx


class ValueReadError(Exception):
    """forward() makes a Python value of what a tensor holds."""


class Concrete:
    """What a proxy answers out of the example's value."""

    value: Any
    tracer: Any  # a ConcreteTracer
    from_input: bool
    measured: bool

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") or "value" not in vars(self):
            raise AttributeError(k)
        found = getattr(self.value, k)
        if (k == "shape" or holds_tensor(found) or callable(found)) and (self.from_input or k != "shape"):
            return ValueAttribute(self, k, found)
        return found

    def known(self) -> Any:
        """The value as Python's own.

        Raises:
            ValueReadError: it comes from a tensor's content.
        """
        of_content = isinstance(self.value, torch.Tensor) or self.measured
        if of_content and (self.from_input or (isinstance(self.value, torch.Tensor) and self.value.is_meta)):
            raise ValueReadError
        self.tracer.fixed |= self.from_input
        return self.value

    def __bool__(self) -> bool:
        return bool(self.known())

    def __int__(self) -> int:
        return int(self.known())

    def __float__(self) -> float:
        return float(self.known())

    def __complex__(self) -> complex:
        return complex(self.known())

    def __index__(self) -> int:
        return operator.index(self.known())

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.known(), digits)

    def __trunc__(self) -> Any:
        return math.trunc(self.known())

    def __floor__(self) -> Any:
        return math.floor(self.known())

    def __ceil__(self) -> Any:
        return math.ceil(self.known())

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        if holds_tensor(self.value):
            raise ValueReadError
        return np.asarray(self.known(), *args, **kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's functions of numbers are computed; its numbers may stand before a tensor, as in np.sqrt(2.0) * x."""
        if not any(holds_tensor(proxy.value) for proxy in proxies_in(inputs)):
            return getattr(ufunc, method)(*known_of(inputs), **kwargs)
        if method != "__call__" or kwargs or ufunc not in _UFUNCS:
            raise ValueReadError
        return _UFUNCS[ufunc](*(one.item() if isinstance(one, np.generic) else one for one in inputs))

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.clone() if isinstance(self.value, torch.Tensor) else self

    def __hash__(self) -> int:
        return id(self) if holds_tensor(self.value) or callable(self.value) else hash(self.known())

    def __str__(self) -> str:
        return str(self.value)

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __len__(self) -> int:
        self.tracer.fixed |= self.from_input and isinstance(self.value, torch.Tensor)
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(self.value)
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


_UFUNCS = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
    np.power: operator.pow,
}


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """`x += y` writes into a tensor, which others may have under another name; of numbers it makes a new one."""
    writes, makes = getattr(operator, f"i{name.rstrip('_')}"), getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if self.from_input and isinstance(self.value, torch.Tensor):
            return self.tracer.create_proxy("call_function", writes, (self, other), {})
        return makes(self, other)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift"):
    setattr(Concrete, f"__i{_name.rstrip('_')}__", _in_place(_name))


class ValueProxy(Concrete, fx.Proxy):
    """A node's value in forward(), while it is traced."""

    def __init__(self, node: fx.Node, tracer: Any, value: Any, from_input: bool, measured: bool) -> None:
        self.value, self.from_input, self.measured = value, from_input, measured
        super().__init__(node, tracer)


class ValueAttribute(Concrete, fx.proxy.Attribute):
    """An attribute of one; a node only where it is used other than by a call."""

    def __init__(self, root: Any, attr: str, value: Any) -> None:
        self.value, self.from_input, self.measured = value, root.from_input, root.measured
        super().__init__(root, attr)


def memory_of(value: Any) -> dict[int, int]:
    """Storages that a value lies in, with the version that every in-place operation counts up."""
    return {
        tensor.untyped_storage()._cdata: -1 if tensor.is_inference() else tensor._version
        for tensor in tensors_in(value)
    }


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors anywhere in a value."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor or a collection with one."""
    return any(True for _ in tensors_in(value))


def proxies_in(value: Any) -> list[Any]:
    """The proxies anywhere in arguments."""
    found: list[Any] = []
    _replaced(value, lambda proxy: found.append(proxy), lambda other: other)
    return found


def values_of(value: Any, meta: bool) -> Any:
    """Arguments with the example's values in place of proxies; with `meta`, constants without content."""

    def constant(other: Any) -> Any:
        return other.to("meta") if meta and isinstance(other, torch.Tensor) else other

    return _replaced(value, lambda proxy: proxy.value, constant)


def known_of(value: Any) -> Any:
    """Arguments with numbers in place of proxies."""
    return _replaced(value, lambda proxy: proxy.known(), lambda other: other)


def _replaced(value: Any, proxy: Callable[[Any], Any], other: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if issubclass(kind, fx.Proxy):
        return proxy(value)
    if issubclass(kind, (tuple, list)):
        parts = [_replaced(item, proxy, other) for item in value]
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    if issubclass(kind, dict):
        return {key: _replaced(item, proxy, other) for key, item in value.items()}
    if kind is slice:
        return slice(*(_replaced(item, proxy, other) for item in (value.start, value.stop, value.step)))
    return other(value)
