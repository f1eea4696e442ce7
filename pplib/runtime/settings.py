"""What a worker is told when it is started."""

from __future__ import annotations

from dataclasses import dataclass, field

from pplib.runtime.connection import Endpoint


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told when it is started; `token` never appears in arguments or logs.

    `control` is where the coordinator finds it; `host` the one address of its data plane.
    """

    name: str
    token: bytes = field(repr=False)
    control: Endpoint = ("127.0.0.1", 0)
    host: str = "127.0.0.1"
    data_port: int = 0
    torch_device: str = "cpu"
    slowdown: float = 1.0
    rpc_threads: int = 4
    prefetch: int | None = None
    interface: str | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    backends: tuple[str, ...] = ("socket",)
