"""The worker: one long-lived process per device, at most one stage, one coordinator at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

import msgspec
import psutil
import torch

from pplib.errors import ProtocolError, TransportError, WorkerError
from pplib.runtime import messages as m
from pplib.runtime.connection import Connection, Deadline, Endpoint, listen
from pplib.runtime.control_port import ControlPort
from pplib.runtime.data_port import DataPort
from pplib.runtime.hops import Hops
from pplib.runtime.host import boot_id, describe_host
from pplib.runtime.inputs import check_fits, receive_inputs
from pplib.runtime.link_probe import probe
from pplib.runtime.memory import memory_for
from pplib.runtime.monitor import Monitor
from pplib.runtime.settings import WorkerSettings
from pplib.runtime.stage import BuiltStage, StageBuilder
from pplib.runtime.stage_loop import Length, StageLoop
from pplib.runtime.watch import FOREVER_S, send_pong
from pplib.runtime.weights_transfer import held_bytes, receive_weights
from pplib.runtime.wire import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, receive_message, send_message

MAX_OUTPUT_BYTES = MAX_MESSAGE_BYTES // 2
FIRST_REQUEST_S = 30.0  # a coordinator that has the session says why
REST_S = 30.0  # for the rest of a request that has begun
MAX_WAIT_S = 600.0  # that a coordinator may have us wait for a neighbour, where its leaving does not wake us


class Worker:
    """Listens, admits one coordinator, and carries out its requests on the main thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._control = ControlPort(settings.name, settings.control, settings.token, self._serve_session, self._hear)
        try:
            self._data = DataPort(settings.name, settings.host, settings.data_port, settings.token)
        except TransportError:
            self._control.close()
            raise
        self._builder = StageBuilder(settings.torch_device)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Lock()  # held while a request is being carried out
        self._stage: BuiltStage | None = None
        self._hops: Hops | None = None
        self._loop: StageLoop | None = None
        self._inputs: list[torch.Tensor] = []
        self._rpc_groups = 0
        self._heard_at, self.forgotten = time.monotonic(), False

    @property
    def control(self) -> Endpoint:
        """Where it listens for a coordinator."""
        return self._control.endpoint

    @property
    def data_port(self) -> int:
        """The port it listens on for its neighbours."""
        return self._data.port

    def serve(self) -> None:
        """Work until a coordinator says stop."""
        self._control.start()
        while (job := self._jobs.get()) is not None:
            job()
        self._leave(graceful=False)
        self._data.close()
        self._control.close()

    def stop(self) -> None:
        """Make `serve` return."""
        self._jobs.put(None)

    def _serve_session(self, connection: Connection) -> None:
        try:
            self._read(connection)
        except (TransportError, msgspec.DecodeError, ValueError):
            pass  # the coordinator went away or spoke nonsense: the session is over either way
        finally:
            self._abort("the coordinator went away")
            self._jobs.put(self._forget)

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    def end_when_forgotten(self, limit_s: float) -> None:
        """Wait until nobody who knows the token has said a word for `limit_s`, then end `serve`."""
        while (left := self._heard_at + limit_s - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        self.forgotten = True
        self._abort("nobody has talked to this worker for a while")
        self.stop()

    def _read(self, connection: Connection) -> None:
        begin_s = FIRST_REQUEST_S
        while True:
            begin = Deadline(begin_s, "next request")
            request = m.decode_request(receive_message(connection, begin, MAX_REQUEST_BYTES, REST_S))
            begin_s = FOREVER_S
            self._hear()
            if isinstance(request, m.Ping):
                send_pong(connection)
            elif isinstance(request, m.Abort):
                self._abort("the trial was given up")
            elif isinstance(request, m.Stop):
                send_message(connection, m.encode(m.Done()), Deadline(5, "goodbye"))
                self.stop()
                return
            elif not self._idle.acquire(blocking=False):
                raise ProtocolError(f"{connection.peer}: asked for more before it had the answer")
            else:
                job = self._accepted(connection, request)
                self._jobs.put(lambda job=job: self._answer(connection, job))  # type: ignore[misc]

    def _accepted(self, connection: Connection, request: m.Request) -> Callable[[], m.Reply]:
        """What the main thread has to do; what follows a request is received here."""
        try:
            if isinstance(request, m.PutInputs):
                self._inputs = []  # never twice in memory
                inputs = receive_inputs(connection, request)
                return lambda: self._keep(inputs)
            if isinstance(request, m.PutWeights):
                told = receive_weights(connection, request)
                return lambda: told
        except BaseException:
            self._idle.release()
            raise
        return lambda: self._carry_out(request)

    def _keep(self, inputs: list[torch.Tensor]) -> m.Reply:
        self._inputs = inputs
        return m.Done(value=len(inputs))

    def _answer(self, connection: Connection, job: Callable[[], m.Reply]) -> None:
        try:
            reply = job()
        except Exception as exc:  # noqa: BLE001 (whatever it is, the coordinator raises it)
            reply = m.Failed(kind=type(exc).__name__, message=str(exc))
        self._idle.release()
        content = m.encode(reply)
        if len(content) > MAX_MESSAGE_BYTES:
            content = m.encode(
                m.Failed(kind="ProtocolError", message=f"its answer of {len(content)} bytes is too long")
            )
        with contextlib.suppress(TransportError):  # nobody is there to be told
            send_message(connection, content, Deadline(60, "reply"))

    def _carry_out(self, request: m.Request) -> m.Reply:
        match request:
            case m.Describe():
                return m.Description(
                    name=self.settings.name,
                    boot_id=boot_id(),
                    pid=psutil.Process().pid,
                    host=describe_host(self.settings.torch_device),
                    data_host=self.settings.host,
                    data_port=self._data.port,
                    backends=self.settings.backends,
                    rpc_groups=self._rpc_groups,
                )
            case m.HaveWeights():
                return m.Done(value=held_bytes(request.sha256))
            case m.FreePort():
                with listen((self.settings.host, 0), "rpc meeting point") as free:
                    return m.Done(value=free.getsockname()[1])
            case m.OpenHops():
                self._leave(graceful=False)
                _check_wait(request.timeout_s)
                self._hops = self._join(request)
                return m.Done()
            case m.Probe():
                _check_wait(request.timeout_s)
                return probe(self._data, request)
            case m.CloseHops():
                self._leave(graceful=True)
                return m.Done()
            case m.Prepare():
                self._stage = None  # never two stages in memory
                for tensor in request.plan.tensors:
                    check_fits(request.plan.in_flight, tensor)
                self._stage = self._builder.build(request.plan, request.stage_index)
                return m.Prepared(
                    build_s=self._stage.build_s,
                    param_bytes=self._stage.param_bytes,
                    resident_bytes=psutil.Process().memory_info().rss,
                )
            case m.Run():
                return self._run(request)
            case _:
                raise ProtocolError(f"unexpected request {type(request).__name__}")

    def _join(self, request: m.OpenHops) -> Hops:
        if request.backend not in self.settings.backends:
            raise WorkerError(
                f"this worker offers {', '.join(self.settings.backends)}, not {request.backend}: "
                "start it with workers/rpc_worker.py"
            )
        if request.backend == "socket":
            return self._data.join(request.stage_index, request.peers, request.run, request.timeout_s)
        from pplib.runtime.rpc_hops import RpcHops  # a socket worker never loads what unpickles

        if request.master is None:
            raise ProtocolError("an rpc group needs a meeting point")
        self._rpc_groups += 1
        return RpcHops(
            request.run,
            request.stage_index,
            request.peers,
            request.master,
            self.settings.rpc_threads,
            request.timeout_s,
        )

    def _run(self, request: m.Run) -> m.Reply:
        stage, hops = self._stage, self._hops
        if stage is None or hops is None or stage.plan.digest != request.plan_digest:
            raise ProtocolError("asked to run a plan that this worker has not prepared")
        plan, i = stage.plan, stage.stage_index
        if i == 0 and not self._inputs:
            raise ProtocolError("the first stage has no input images")
        prefetch = self.settings.prefetch
        loop = self._loop = StageLoop(
            stage.runner,
            stage_index=i,
            num_stages=plan.num_stages,
            tensor_in=plan.tensors[i],
            tensor_out=plan.tensors[i + 1],
            result=plan.tensors[-1],
            in_flight=plan.in_flight,
            slots=plan.in_flight if prefetch is None else min(plan.in_flight, prefetch + 1),
            inputs=self._inputs,
            slowdown=self.settings.slowdown,
        )
        settings = self.settings
        monitor = Monitor(
            interface=settings.interface,
            torch_device=settings.torch_device,
            idle_w=settings.idle_w,
            busy_w=settings.busy_w,
            emulated=settings.slowdown > 1,
        )
        try:
            with memory_for(f"stage {i} before it ran"), monitor:
                length = Length(request.most, request.least, request.limit_s)
                loop.run(hops, request.trial, length, Deadline(request.timeout_s, "trial"))
        except Exception:
            self._leave(graceful=False)
            raise
        finally:
            self._loop = None
        t = loop.trace
        busy_s = sum(end - start for start, end in zip(t.compute_start_ns, t.compute_end_ns, strict=True)) * 1e-9
        kept = max(1, min(len(loop.outputs), MAX_OUTPUT_BYTES // max(1, plan.tensors[-1].num_bytes)))
        return m.Ran(
            ready_ns=t.ready_ns,
            received_ns=t.received_ns,
            compute_start_ns=t.compute_start_ns,
            compute_end_ns=t.compute_end_ns,
            copy_ns=t.copy_ns,
            send_start_ns=t.send_start_ns,
            returned_ns=t.returned_ns,
            payload_bytes=hops.sender.payload_bytes,
            outputs=[bytes(plan.tensors[-1].bytes_of(one)) for one in loop.outputs[:kept]],
            usage=monitor.usage(busy_s),
        )

    def _abort(self, reason: str) -> None:
        loop = self._loop
        if loop is not None:
            loop.stop(TransportError(reason))

    def _leave(self, graceful: bool) -> None:
        hops, self._hops = self._hops, None
        if hops is not None:
            hops.close(graceful)

    def _forget(self) -> None:
        """The last job of a session; the next coordinator is admitted after it."""
        self._stage, self._inputs = None, []
        try:
            with contextlib.suppress(TransportError):  # a group whose coordinator died is left, not mended
                self._leave(graceful=False)
        finally:
            self._control.end_session()


def _check_wait(timeout_s: float) -> None:
    if not 0 <= timeout_s <= MAX_WAIT_S:
        raise ProtocolError(f"asked to wait for {timeout_s} s, expected at most {MAX_WAIT_S:.0f} s")
