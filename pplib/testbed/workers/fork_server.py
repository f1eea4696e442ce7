"""Workers and kernels of this machine are forked from a process that has loaded what they need: that takes seconds.

A server starts with the first process that it is to fork, and ends with the one that asked for it. What was forked is
as if its script had been started: a session, an environment, pipes and a network of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import random
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence

import msgspec

from pplib import limits
from pplib.errors import WorkerError
from pplib.testbed.emulation import syscalls
from pplib.testbed.workers.forked import Forked

_LONGEST_BYTES = 1 << 20
_STANDARD_ERROR, _FIRST_OTHER_FD = 2, 3
_LOADED = b"loaded"  # what a server says first


class Order(msgspec.Struct, frozen=True):
    """What a process is to be.

    Attributes:
        name: of the process, as lists show it.
        script: the program to run.
        arguments: of it.
        folder: the one to be in.
        environment: all of it; its PYTHONPATH counts as for a program that is started.
        networks: the namespaces to enter, as files, in this order.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    networks: tuple[str, ...] = ()


class ForkServer:
    """The end of the process that asks. Calls are safe from several threads.

    Args:
        modules: what the server loads before it forks.
    """

    def __init__(self, *modules: str) -> None:
        self._modules, self._lock = modules, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._loaded = False
        atexit.register(self.close)

    def start(self) -> None:
        """Have the server load what it has to, in the background; what it says goes to our standard error."""
        with self._lock:
            if self._socket is None:
                self._start(_STANDARD_ERROR)

    def wait_loaded(self, timeout_s: float) -> None:
        """If it was started, wait until it has loaded all, or has ended: so long it keeps a core busy."""
        with self._lock:
            if self._socket is not None and not self._loaded and select.select([self._socket], [], [], timeout_s)[0]:
                self._loaded = self._socket.recv(64) == _LOADED

    def fork(self, order: Order, log: int, timeout_s: float) -> Forked:
        """Start a process; its standard error goes to the descriptor `log`.

        Raises:
            WorkerError: no process can be had.
        """
        with contextlib.ExitStack() as theirs:
            (stdin, ours_in), (ours_out, stdout), (ours_end, ending) = os.pipe(), os.pipe(), os.pipe()
            for fd in (stdin, stdout, ending):
                theirs.callback(os.close, fd)
            try:
                pid = self._ask(order, [stdin, stdout, log, ending], timeout_s)
            except BaseException:
                for fd in (ours_in, ours_out, ours_end):
                    os.close(fd)
                raise
        return Forked(pid, os.fdopen(ours_in, "wb", 0), os.fdopen(ours_out, "rb", 0), ours_end)

    def close(self) -> None:
        """End the server; its workers see their standard input end when this process does."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._socket is not None and self._process is not None:
            if not self._loaded:  # it does not look up before
                self._process.kill()
            self._socket.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limits.THREAD_JOIN_S)
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None
        self._loaded = False

    def _ask(self, order: Order, fds: Sequence[int], timeout_s: float) -> int:
        content = msgspec.json.encode(order)
        with self._lock:
            for _ in range(2):  # a server that was killed is started again
                asked = self._socket or self._start(fds[2])
                asked.settimeout(timeout_s)
                try:
                    self._loaded = self._loaded or asked.recv(64) == _LOADED
                    socket.send_fds(asked, [content], list(fds))
                    if answer := asked.recv(64):
                        if int(answer) <= 0:
                            raise WorkerError(f"no process can be forked: {os.strerror(-int(answer))}")
                        return int(answer)
                except TimeoutError as exc:
                    self._end()
                    raise WorkerError(
                        f"{self._modules[-1]} was not loaded within {timeout_s:.0f} s (ready_timeout_s)"
                    ) from exc
                except OSError as exc:
                    if len(content) > _LONGEST_BYTES // 2:
                        raise WorkerError(f"the environment is too long: {len(content)} bytes: {exc}") from exc
                self._end()
        raise WorkerError("the process to fork from ends at once: the log of the worker, or what was printed, says why")

    def _start(self, log: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the coordinator's to handle
            )
        self._socket = ours
        return ours


_WORKER = "pplib.pipeline.worker.command_line"
WORKER_SERVERS = {True: ForkServer(_WORKER, "pplib.pipeline.stage.eager"), False: ForkServer(_WORKER)}
"""Of workers that load PyTorch, and of those that do not."""
KERNEL_SERVER = ForkServer("pplib.sweep.job.kernel_process")


def serve(asked: socket.socket) -> None:
    """Fork a worker for every order, and tell of each how it ended, until nobody is there to ask."""
    tell: dict[int, int] = {}
    awake, wake = os.pipe()
    for fd in (awake, wake):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    gc.collect()
    gc.enable()
    gc.freeze()  # what is loaded is shared with the workers, as long as nobody writes to it
    loaded = syscalls.resident_files()
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if awake in ready:
                os.read(awake, 4096)
                _reap(tell)
            if asked in ready and not _fork(asked, loaded, tell):
                return


def _fork(asked: socket.socket, loaded: Sequence[tuple[int, int]], tell: dict[int, int]) -> bool:
    """Carry out one order, and answer with the process id, or a negative error number; False where nobody asks."""
    content, fds, _, _ = socket.recv_fds(asked, _LONGEST_BYTES, 4)
    if not content:
        return False
    *pipes, ending = fds
    order = msgspec.json.decode(content, type=Order)
    try:
        with warnings.catch_warnings():  # threads of libraries (allocators) are idle here; of ours there are none
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            pid = os.fork()
    except OSError as exc:
        pid = -(exc.errno or 1)
    if pid == 0:
        _become(order, pipes, loaded)
    for fd in pipes:
        os.close(fd)
    if pid > 0:
        tell[pid] = ending
    else:
        os.close(ending)
    asked.send(str(pid).encode())
    return True


def _reap(tell: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            fd = tell.pop(pid)
            with contextlib.suppress(OSError):  # nobody wants to know any more
                os.write(fd, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(fd)


def _become(order: Order, pipes: Sequence[int], loaded: Sequence[tuple[int, int]]) -> None:
    """Be the process; never returns. Its resident memory is that of one that has `loaded` all by itself."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for place, fd in enumerate(pipes):
            os.dup2(fd, place)
        os.closerange(_FIRST_OTHER_FD, os.sysconf("SC_OPEN_MAX"))
        for network in order.networks:
            with open(network) as file:  # noqa: PTH123 (a descriptor is all that is wanted)
                syscalls.setns(file.fileno())
        syscalls.make_resident(loaded)
        os.environ.clear()
        os.environ.update(order.environment)
        os.chdir(order.folder)
        syscalls.name_process(order.name)
        random.seed()
        sys.argv[:] = [order.script, *order.arguments]
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:] = list(dict.fromkeys([*filter(None, path), *sys.path]))
        runpy.run_path(order.script, run_name="__main__")
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:  # noqa: BLE001 (told in the log, as of any program)
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Load what all need, then serve."""
    gc.disable()  # what is loaded stays: to look for garbage in it takes a seventh of the time
    for module in sys.argv[2:]:
        importlib.import_module(module)
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        with contextlib.suppress(BrokenPipeError):  # nobody is there to ask any more
            asked.send(_LOADED)
        serve(asked)
    os._exit(0)  # to take all down that was loaded would take a while


if __name__ == "__main__":
    main()
