"""A worker's membership in a ring of stages, over the backend that a coordinator asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from pplib.errors import ProtocolError, WorkerError
from pplib.pipeline.hops.contract import Hops
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.addresses import address_of
from pplib.pipeline.worker.data_port import DataPort
from pplib.pipeline.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pplib.pipeline.hops.meeting import Meeting


class Ring:
    """At most one ring at a time.

    Attributes:
        hops: of the present one.
        rpc_groups: how many rpc groups this process has joined.
    """

    def __init__(self, settings: WorkerSettings, backends: tuple[str, ...], data: DataPort) -> None:
        self._settings, self._backends, self._data = settings, backends, data
        self.hops: Hops | None = None
        self.rpc_groups = 0
        self._meeting: Meeting | None = None
        self._met: Meeting | None = None  # that of the last group: others may still be leaving it when we have

    def join(self, request: m.OpenHops) -> None:
        """Join a ring.

        Raises:
            WorkerError: this worker does not offer the backend.
            TransportError: a neighbour cannot be reached, or did not come in time.
        """
        self._check_offered(request.backend)
        self._met = None  # all have left
        match request.backend:
            case "socket":
                self.hops = self._data.join(request.stage_index, request.peers, request.run, request.timeout_s)
            case "rpc" | "gloo":
                self.hops = self._join_group(request)
            case other:
                assert_never(other)

    def _join_group(self, request: m.OpenHops) -> Hops:
        if request.meeting is None:
            raise ProtocolError(f"a group of {request.backend} needs a meeting point")
        own, self._meeting = self._meeting, None
        self._met = own
        if request.backend == "gloo":
            from pplib.pipeline.hops.gloo import GlooHops  # needs half of torch.distributed

            return GlooHops(request.stage_index, request.peers, request.meeting, request.timeout_s, own)
        from pplib.pipeline.hops.rpc import RpcHops  # a worker that is not asked for rpc never loads what unpickles

        self.rpc_groups += 1
        return RpcHops(
            request.run,
            request.stage_index,
            request.peers,
            request.meeting,
            self._settings.rpc_threads,
            request.timeout_s,
            own,
        )

    def open_meeting(self, request: m.OpenMeeting) -> int:
        """Listen where the members of the next group meet; the port.

        Raises:
            WorkerError: this worker does not offer the backend.
            TransportError: the address is not this machine's, or the port is taken.
        """
        self._check_offered(request.backend)
        from pplib.pipeline.hops.meeting import Meeting

        self.close_meeting()
        self._meeting = Meeting(address_of(request.host or self._settings.data_host), request.port)
        return self._meeting.port

    def close_meeting(self) -> None:
        """Listen no more, where nobody has met."""
        meeting, self._meeting = self._meeting, None
        if meeting is not None:
            meeting.close()

    def leave(self, graceful: bool) -> None:
        """Leave the ring, if there is one; `graceful` when all others leave too."""
        hops, self.hops = self.hops, None
        if hops is not None:
            hops.close(graceful)

    def _check_offered(self, backend: str) -> None:
        if backend not in self._backends:
            raise WorkerError(
                f"this worker offers {', '.join(self._backends)}, not {backend}: start it with workers/rpc_worker.py"
            )
