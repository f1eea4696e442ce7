"""The worker: one long-lived process per device, at most one stage, one coordinator at a time."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable

import msgspec
import psutil
import torch

from pplib.errors import ProtocolError, TransportError, WorkerError
from pplib.runtime import messages as m
from pplib.runtime.connection import Connection, Deadline, Endpoint, listen
from pplib.runtime.data_port import DataPort
from pplib.runtime.handshake import CONTROL, WATCH, admit
from pplib.runtime.hops import Hops
from pplib.runtime.host import boot_id, describe_host
from pplib.runtime.inputs import receive_inputs
from pplib.runtime.link_probe import probe
from pplib.runtime.monitor import Monitor
from pplib.runtime.settings import WorkerSettings
from pplib.runtime.stage import BuiltStage, StageBuilder
from pplib.runtime.stage_loop import Length, StageLoop
from pplib.runtime.strangers import Strangers
from pplib.runtime.watch import FOREVER_S, be_watched, send_pong
from pplib.runtime.weights_transfer import held_bytes, receive_weights
from pplib.runtime.wire import MAX_MESSAGE_BYTES, receive_message, send_message

MAX_OUTPUT_BYTES = MAX_MESSAGE_BYTES // 2


class Worker:
    """Listens, admits one coordinator, and carries out its requests on the main thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._control = listen(settings.control, f"{settings.name}: control port")
        try:
            self._data = DataPort(settings.name, settings.host, settings.data_port, settings.token)
        except TransportError:
            self._control.close()
            raise
        self._builder = StageBuilder(settings.torch_device)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._session = threading.Lock()
        self._stage: BuiltStage | None = None
        self._hops: Hops | None = None
        self._loop: StageLoop | None = None
        self._inputs: list[torch.Tensor] = []
        self._rpc_groups = 0
        self._heard_at = time.monotonic()
        self._strangers = Strangers()

    @property
    def control(self) -> Endpoint:
        """Where it listens for a coordinator."""
        bound = self._control.getsockname()
        return bound if isinstance(bound, str) else (bound[0], bound[1])

    @property
    def data_port(self) -> int:
        """The port it listens on for its neighbours."""
        return self._data.port

    def serve(self) -> None:
        """Work until a coordinator says stop."""
        threading.Thread(target=self._accept, name="control", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            job()
        self._leave(graceful=False)
        self._data.close()
        self._control.close()

    def stop(self) -> None:
        """Make `serve` return."""
        self._jobs.put(None)

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._control.accept()
            except OSError:
                return  # closed: the worker ends
            peer = f"coordinator at {address[0]}" if address else "coordinator"
            self._strangers.admit(sock, self._converse, peer)

    def _converse(self, sock: socket.socket, peer: str, known: Callable[[], None]) -> None:
        connection = Connection(sock, peer)
        with contextlib.closing(connection):
            try:
                purpose = admit(connection, self.settings.token, (CONTROL, WATCH))
            except TransportError:
                return  # a stranger learns nothing
            known()
            if purpose == WATCH:
                be_watched(connection, self._hear)
                return
            if not self._session.acquire(timeout=5):
                answer = m.Failed(kind="WorkerError", message="another coordinator is using this worker")
                with contextlib.suppress(TransportError):
                    receive_message(connection, Deadline(5, "first request"), 65536)
                    send_message(connection, m.encode(answer), Deadline(5, "refusal"))
                return
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
        self._abort("nobody has talked to this worker for a while")
        self.stop()

    def _read(self, connection: Connection) -> None:
        while True:
            request = m.decode_request(receive_message(connection, Deadline(FOREVER_S, "next request")))
            self._hear()
            if isinstance(request, m.Ping):
                send_pong(connection)
            elif isinstance(request, m.Abort):
                self._abort("the trial was given up")
            elif isinstance(request, m.PutInputs):
                inputs = receive_inputs(connection, request)
                self._jobs.put(lambda r=inputs: self._answer(connection, lambda: self._keep(r)))  # type: ignore[misc]
            elif isinstance(request, m.PutWeights):
                told = receive_weights(connection, request)
                self._jobs.put(lambda r=told: self._answer(connection, lambda: r))  # type: ignore[misc]
            elif isinstance(request, m.Stop):
                send_message(connection, m.encode(m.Done()), Deadline(5, "goodbye"))
                self.stop()
                return
            else:
                self._jobs.put(lambda r=request: self._answer(connection, lambda: self._carry_out(r)))  # type: ignore[misc]

    def _keep(self, inputs: list[torch.Tensor]) -> m.Reply:
        self._inputs = inputs
        return m.Done(value=len(inputs))

    def _answer(self, connection: Connection, job: Callable[[], m.Reply]) -> None:
        try:
            reply = job()
        except Exception as exc:  # noqa: BLE001 (whatever it is, the coordinator raises it)
            reply = m.Failed(kind=type(exc).__name__, message=str(exc))
        with contextlib.suppress(TransportError):  # nobody is there to be told
            send_message(connection, m.encode(reply), Deadline(60, "reply"))

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
                self._hops = self._join(request)
                return m.Done()
            case m.Probe():
                return probe(self._data, request)
            case m.CloseHops():
                self._leave(graceful=True)
                return m.Done()
            case m.Prepare():
                self._stage = None  # never two stages in memory
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
            with monitor:
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
            self._session.release()
