"""What a worker is told when it is started: one line of JSON on its standard input."""

from __future__ import annotations

import msgspec


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is told when it is started. What a device file has, too, is explained at `pplib.devices.Device`.

    Attributes:
        token: the run's secret, at least 16 bytes; in no argument, environment or log.
        control: where a coordinator finds it: HOST:PORT (0: any free port), or a Unix socket's path.
        loads_torch: whether it loads PyTorch before it is ready; else it does where a stage needs it.
        data_host: the one IPv4 address of its data plane.
        cores: to stay on; empty leaves it to the system.
        forgotten_after_s: seconds without a word from anybody after which it ends by itself; None: it ends with its
            parent, that is, at the end of its standard input.
    """

    name: str
    token: bytes
    control: str = "127.0.0.1:0"
    data_host: str = "127.0.0.1"
    data_port: int = 0
    torch_device: str = "cpu"
    loads_torch: bool = True
    threads: int = 1
    cores: tuple[int, ...] = ()
    slowdown: float = 1.0
    rpc_threads: int = 4
    prefetch: int | None = None
    interface: str | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    forgotten_after_s: float | None = None

    def __repr__(self) -> str:
        return f"WorkerSettings(name={self.name!r}, ...)"  # without the token

    @property
    def line(self) -> bytes:
        """As a worker reads it."""
        return msgspec.json.encode(self) + b"\n"
