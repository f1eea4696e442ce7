"""The command line of a worker process: settings in, one ready line out, gone when its parent is gone."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Sequence

import msgspec
import torch

from pplib.errors import ParetoPipeError
from pplib.runtime.connection import endpoint_of, name_of
from pplib.runtime.settings import WorkerSettings
from pplib.runtime.worker import Worker

FORGOTTEN = 75  # the exit status of a worker that nobody has talked to for too long


class Ready(msgspec.Struct, frozen=True):
    """The line a worker prints once it listens."""

    name: str
    pid: int
    control: str
    data_port: int


def main(backends: tuple[str, ...], arguments: Sequence[str] | None = None) -> int:
    """Run a worker until a coordinator stops it or its parent dies.

    The run's token is read from the first line of standard input, so that no process list shows it;
    the end of standard input means that the parent is gone, and ends the worker, unless it was started
    detached: then it ends when nobody has talked to it for `--forgotten-after` seconds.
    """
    options = _parser(backends).parse_args(arguments)
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    token = bytes.fromhex(sys.stdin.readline().strip())
    if len(token) < 16:
        sys.stderr.write("expected the run's token, at least 16 bytes in hex, on the first line of standard input\n")
        return 2
    try:
        worker = Worker(
            WorkerSettings(
                name=options.name,
                token=token,
                control=endpoint_of(options.control),
                host=options.host,
                data_port=options.data_port,
                torch_device=options.torch_device,
                slowdown=options.slowdown,
                rpc_threads=options.rpc_threads,
                prefetch=options.prefetch,
                interface=options.interface,
                idle_w=options.idle_w,
                busy_w=options.busy_w,
                backends=backends,
            )
        )
    except (ParetoPipeError, RuntimeError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    if options.forgotten_after is None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    else:
        limit_s = options.forgotten_after
        threading.Thread(target=worker.end_when_forgotten, args=(limit_s,), daemon=True).start()
    ready = Ready(options.name, os.getpid(), name_of(worker.control), worker.data_port)
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    status = 1
    try:
        worker.serve()
        status = FORGOTTEN if worker.forgotten else 0
    except Exception:  # noqa: BLE001 (it is told, and then the end: half a worker would only answer pings)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # an rpc group that lost a member can hang a normal exit


def _end_with_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(0)


def _parser(backends: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"A ParetoPipe worker for {' and '.join(backends)}; reads the run's token from standard input."
    )
    parser.add_argument("--name", required=True, help="the device's name, for errors and records")
    parser.add_argument("--control", default="127.0.0.1:0", help="HOST:PORT (0: any free port) or a Unix socket's path")
    parser.add_argument("--host", default="127.0.0.1", help="the one address of its data plane")
    parser.add_argument("--data-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--torch-device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--forgotten-after", type=float, help="seconds without a word after which it ends by itself")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operation")
    parser.add_argument("--cores", default="", help="comma-separated cores to stay on")
    parser.add_argument("--slowdown", type=float, default=1.0, help="emulate a device slower by this factor")
    parser.add_argument("--rpc-threads", type=int, default=4, help="threads of the rpc agent")
    parser.add_argument("--interface", default=None, help="the network interface whose traffic is counted")
    parser.add_argument("--idle-w", type=float, default=None, help="power when idle, where there is no meter")
    parser.add_argument("--busy-w", type=float, default=None, help="power when computing, where there is no meter")
    parser.add_argument("--prefetch", type=int, default=None, help="microbatches received ahead")
    return parser
