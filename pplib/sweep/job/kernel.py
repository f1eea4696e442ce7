"""Execute a notebook with papermill, in a kernel that is this very interpreter."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import nbformat
import papermill
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from nbclient.exceptions import DeadKernelError
from nbclient.util import run_sync
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from pplib import ROOT, limits
from pplib.errors import ConfigError, OutputError, ParetoPipeError, nearest
from pplib.files.own_folder import own_folder
from pplib.files.own_paths import without_own_paths
from pplib.notebook import assigned_names
from pplib.records import not_written, write_atomic
from pplib.sweep.job.notebook_steps import MEASURED
from pplib.sweep.progress import VARIABLE as PROGRESS
from pplib.testbed.workers.fork_server import KERNEL_SERVER, Order

NOTEBOOKS = ROOT / "notebooks"
KERNEL = Path(__file__).with_name("kernel_process.py")
LONGEST_SOCKET = 107  # bytes of a Unix socket's path, by the kernel's `struct sockaddr_un`
STANDARD_ERROR = 2
ROOM = 50  # for the names of our folders and sockets below the folder of temporary files


class NotebookError(ParetoPipeError):
    """A notebook stopped at a failing cell; the executed copy shows where."""


class ForkedKernel(LocalProvisioner):
    """Starts a kernel as a fork: one that is started loads for seconds what it needs."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start it.

        Raises:
            WorkerError: no process can be had.
        """
        folder = str(kwargs.get("cwd") or Path.cwd())
        order = Order("kernel", str(KERNEL), tuple(cmd), folder, kwargs["env"])
        forked = KERNEL_SERVER.fork(order, STANDARD_ERROR, limits.KERNEL_START_S)
        for pipe in (forked.stdin, forked.stdout):  # a kernel is talked to through its own sockets
            pipe.close()
        self.process = cast("subprocess.Popen[Any]", forked)  # it has what a provisioner uses of one
        self.pid = self.pgid = forked.pid
        return self.connection_info


class ThisInterpreter(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernels are installed and whichever one a notebook names.

    It executes notebooks one after the other, each as if it were new; it starts with the first. Where `measured`, there
    is nothing to measure any more, and the board is not told what notebooks do.
    """

    measured = False
    _talks: AsyncKernelClient | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of this interpreter."""
        return KernelSpec(argv=["-f", "{connection_file}"], display_name="Python 3", language="python")

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # as AsyncKernelManager's
        """Fork the kernel."""
        self.kernel_id = str(uuid.uuid4())
        if self.measured:
            options["env"] = {**{key: one for key, one in os.environ.items() if key != PROGRESS}, MEASURED: "1"}
        self.provisioner = ForkedKernel(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        await super().start_kernel(**options)

    def client(self, **options: Any) -> AsyncKernelClient:  # type: ignore[override]  # as AsyncKernelManager's
        """Who talks to the kernel for one notebook."""
        self._talks = super().client(**options)
        return self._talks

    async def get_ready(self) -> None:
        """Start before there is a notebook, and load what draws.

        Raises:
            WorkerError: no process can be had.
            RuntimeError: it ended.
            TimeoutError: it does not answer.
        """
        await self.start_kernel(extra_arguments=["--HistoryManager.hist_file=:memory:"])
        talks = self.client()
        talks.start_channels(hb=False)  # nothing moves beside what is measured
        await talks.wait_for_ready(limits.KERNEL_START_S)
        loads = "from pplib.view.display import load_drawing; load_drawing()"
        await talks.execute(loads, silent=True, reply=True, timeout=limits.KERNEL_START_S)

    async def forget(self) -> None:
        """Have the kernel forget the notebook before: its names, its inputs, its count.

        Raises:
            DeadKernelError: it does not answer.
        """
        if self._talks is None:
            return
        try:
            if not await self.is_alive():
                raise DeadKernelError("ended")
            await self._talks.execute("get_ipython().reset()", silent=True, reply=True, timeout=limits.KERNEL_START_S)
        except TimeoutError as exc:
            raise DeadKernelError("no answer") from exc
        finally:
            self._talks.stop_channels()

    async def end(self) -> None:
        """End the kernel, in whatever state it is."""
        try:
            if self.has_kernel and await self.is_alive():
                await self.shutdown_kernel()
        finally:
            await self.cleanup_resources()
            if self._talks is not None:
                self._talks.stop_channels()


def check_temporary_folder() -> None:
    """Make sure that sockets can be made in the folder of temporary files.

    Raises:
        ConfigError: its name is too long.
    """
    folder = tempfile.gettempdir()
    length = len(os.fsencode(folder))
    if length > LONGEST_SOCKET - ROOM:
        raise ConfigError(
            f"TMPDIR: expected a path of at most {LONGEST_SOCKET - ROOM} bytes, for Unix sockets are made in it, got "
            f"{length}: {folder}: set TMPDIR to a shorter one, such as /tmp"
        )


class SavedAtEnd(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    """papermill's engine, but that the executed copy is written at the end, whatever that is, and not after each cell.

    What these notebooks show takes seconds to execute, and of that to write them fifty times took one.
    """

    NAME = "saved at end"

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, *args: Any, **options: Any) -> None:
        """Execute it."""
        path, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, *args, **options)
        finally:
            nb_man.output_path = path


papermill_engines.register(SavedAtEnd.NAME, SavedAtEnd)


@contextlib.contextmanager
def kernel(measured: bool = False) -> Iterator[ThisInterpreter]:
    """A kernel for notebooks that one thread executes."""
    with own_folder("k-") as folder:
        # Not over TCP, where any user could talk to it.
        transport = {"transport": "ipc", "ip": f"{folder}/k", "connection_file": f"{folder}/kernel.json"}
        one = ThisInterpreter(kernel_name="python3", config=Config({"KernelManager": transport}))
        one.measured = measured
        try:
            yield one
        finally:
            run_sync(one.end)()


def execute(
    notebook: Path, output: Path, parameters: Mapping[str, object], where: ThisInterpreter | None = None
) -> None:
    """Execute a notebook with papermill; the executed copy is kept whatever happens.

    Args:
        notebook: what to execute.
        output: where the executed copy goes.
        parameters: of the notebook.
        where: the kernel; if not given, one of its own.

    Raises:
        ConfigError: a parameter the notebook does not have, or a folder of temporary files that will not do.
        NotebookError: a cell failed; its error, and where the executed copy is.
        OutputError: the executed copy cannot be written.
    """
    known = notebook_parameter_names(notebook)
    for name in parameters:
        if name not in known:
            raise ConfigError(f"{notebook.name}: {name}: unknown parameter; {nearest(name, known)}")
    check_temporary_folder()
    try:
        with contextlib.nullcontext(where) if where else kernel() as one:
            _execute(notebook, output, parameters, one)
    finally:
        _show_to_others(output, str(parameters.get("output_dir", output.parent.parent)))


def _execute(notebook: Path, output: Path, parameters: Mapping[str, object], where: ThisInterpreter) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        run_sync(where.forget)()
        papermill.execute_notebook(
            str(notebook),
            str(output),
            dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            engine_name=SavedAtEnd.NAME,
            cwd=str(Path.cwd()),
            km=where,
        )
    except PapermillExecutionError as exc:
        raise NotebookError(f"{exc.ename.rpartition('.')[2]}: {exc.evalue}\nthe executed copy is {output}") from exc
    except OSError as exc:
        raise not_written(output, exc) from exc
    except DeadKernelError as exc:
        raise NotebookError(
            f"the kernel of {notebook.name} died (killed, or out of memory): trials already done are kept; start "
            f"again to do the rest\nthe executed copy is {output}"
        ) from exc


def _show_to_others(executed: Path, output_dir: str) -> None:
    """Tell paths of this machine in an executed copy as they are meant elsewhere."""
    with contextlib.suppress(OSError, OutputError):  # a copy that cannot be written was told of already
        text = executed.read_text("utf-8")
        if (shown := without_own_paths(text, output_dir)) != text:
            write_atomic(executed, shown.encode())


def notebook_parameter_names(notebook: Path) -> list[str]:
    """The names that the parameters cell of a notebook sets."""
    cells = nbformat.read(notebook, as_version=4).cells  # type: ignore[no-untyped-call]
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return [name for source in tagged for name in assigned_names(source)[0]]
