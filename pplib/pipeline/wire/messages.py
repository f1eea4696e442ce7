"""The control plane's vocabulary: what a coordinator asks of a worker, and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pplib.config import Backend
from pplib.errors import ProtocolError
from pplib.pipeline.monitor.usage import Usage
from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec

MAX_BLOCK_BYTES = 16 * 1024 * 1024  # of outputs in one answer


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages; the tag names the kind on the wire."""


class Describe(Message, frozen=True):
    """Tell what you are."""


class Ping(Message, frozen=True):
    """Tell your monotonic clock; answered at once, whatever else the worker does."""


class PutInputs(Message, frozen=True):
    """`count` microbatches follow as raw tensor bytes; keep them until others come."""

    spec: TensorSpec
    count: int


class HaveWeights(Message, frozen=True):
    """Tell how many bytes of the weights with this content hash you hold; they have `num_bytes`."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    num_bytes: Annotated[int, msgspec.Meta(ge=0)]


class PutWeights(Message, frozen=True):
    """`count` bytes of these weights follow, from `offset` on; keep the file when its content has the hash."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=0)]


class OpenHops(Message, frozen=True):
    """Join the ring of workers: connect to the next stage, be connected to by the previous.

    `peers` are (name, endpoint) in stage order: where each takes activations, as its neighbours reach it. For rpc
    and gloo, `meeting` is where they meet: a file, for workers of one machine, or the address that the first one named.
    """

    backend: Backend
    stage_index: int
    peers: tuple[tuple[str, str], ...]
    run: str
    meeting: str | None
    timeout_s: float


class OpenMeeting(Message, frozen=True):
    """Listen where the members of a group of this backend will meet, and tell the port: `port` (0: any free one) of
    `host` (None: the address of your data plane). It closes when the group has met, or the ring is left.
    """

    backend: Backend
    host: str | None
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Probe(Message, frozen=True):
    """Measure the link to `peer` together with it; one of the two connects, one leads.

    echo: the leader asks, for `window_s` or 400 times, at least 9 times. stream: the leader receives,
    for `settle_s` and then `window_s`, or until `enough_bytes` have come in that, and the other end has no more than
    `ahead_bytes` on their way.
    """

    what: Literal["echo", "stream"]
    leads: bool
    connects: bool
    run: str
    stage_index: int
    peer: tuple[str, str]
    settle_s: float
    window_s: float
    ahead_bytes: int | None
    timeout_s: float
    enough_bytes: int | None = None


class CloseHops(Message, frozen=True):
    """Leave the ring; all workers are told at the same time."""


class Prepare(Message, frozen=True):
    """Build your stage of this plan, with its weights, and drop the one you had."""

    plan: PipelinePlan
    stage_index: int


class Run(Message, frozen=True):
    """Run microbatches through the pipeline as this trial: `most`, or as many as fit in `limit_s`, at least `least`.

    `slots` are the microbatches that each stage has room for. What was seen stays until the next
    `Run`, also where it fails: `TakeTrace` and `TakeOutputs` ask for it.
    """

    trial: int
    slots: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    plan_digest: str
    most: int
    least: int
    limit_s: float | None
    timeout_s: float


class TimeStage(Message, frozen=True):
    """Run your stage alone, on inputs that you make up: `warmup` times at once, then `count` times, after a pause each.

    Answered by a trace with what computing took, each time; a run of before is forgotten.
    """

    warmup: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    pause_s: Annotated[float, msgspec.Meta(ge=0, le=60)]


class TakeTrace(Message, frozen=True):
    """Tell what your stage saw in the last run; up to where it came, if that failed."""


class TakeOutputs(Message, frozen=True):
    """Give `count` bytes of the last run's outputs, from `offset` on, all outputs back to back."""

    offset: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_BYTES)]


class Abort(Message, frozen=True):
    """Give up the running request; never answered, the request itself fails."""


class Stop(Message, frozen=True):
    """End the process."""


_Provided = Describe | Ping | PutInputs | HaveWeights | PutWeights | OpenHops | OpenMeeting | Probe | CloseHops
Request = _Provided | Prepare | Run | TimeStage | TakeTrace | TakeOutputs | Abort | Stop


class Description(Message, frozen=True):
    """What a worker is and runs on.

    `rpc_groups`: how many rpc groups its process has joined. PyTorch counts them, and lets only
    processes that have joined equally many find each other. `prefetch`: how many received microbatches
    may wait for the stage; None: as many as are in flight. `runtimes`: what can execute a stage there, and its version;
    `unfit`: of these, what cannot do so on its `torch_device`, and why.
    `no_bfloat16`: why it would emulate such arithmetic; empty where it has it.
    """

    name: str
    boot_id: str
    pid: int
    host: dict[str, str | int | float]
    data_host: str
    data_port: int
    backends: tuple[str, ...]
    rpc_groups: int
    prefetch: int | None
    runtimes: dict[str, str]
    unfit: dict[str, str]
    no_bfloat16: str


class Pong(Message, frozen=True):
    """The worker's CLOCK_MONOTONIC when it answered."""

    monotonic_ns: int


class Done(Message, frozen=True):
    """The request was carried out; `value` where it asked for a number."""

    value: int = 0


class Probed(Message, frozen=True):
    """What one end of a probe saw: `rtts_s` the leader of an echo, `goodput_bit_s` the leader of a
    stream, the rest the sender of a stream, where its system tells: `resent` and `loss` are shares of `segments`.
    """

    rtts_s: list[float] = []
    goodput_bit_s: float = 0.0
    segment_bytes: int | None = None
    resent: float | None = None
    segments: int | None = None
    loss: float | None = None


class Prepared(Message, frozen=True):
    """The stage is ready: what it holds."""

    build_s: float
    param_bytes: int
    resident_bytes: int


class Moments(msgspec.Struct):
    """When each microbatch passed one stage, one entry each, in ns of its worker's own CLOCK_MONOTONIC.

    What they mean is told at `StageTimeline`, which has the same in seconds on one clock. `returned_ns`, only on
    stage 0, is when the output was back there. `encode_ns` and `decode_ns` are durations, where there are any.
    """

    ready_ns: list[int] = msgspec.field(default_factory=list)
    received_ns: list[int] = msgspec.field(default_factory=list)
    compute_start_ns: list[int] = msgspec.field(default_factory=list)
    compute_end_ns: list[int] = msgspec.field(default_factory=list)
    copy_ns: list[int] = msgspec.field(default_factory=list)
    send_start_ns: list[int] = msgspec.field(default_factory=list)
    returned_ns: list[int] = msgspec.field(default_factory=list)
    encode_ns: list[int] = msgspec.field(default_factory=list)
    decode_ns: list[int] = msgspec.field(default_factory=list)


class Trace(Message, frozen=True):
    """What one stage saw; of a run that failed some lists of `moments` are longer than others.

    `num_outputs`, how many outputs are kept, only on the last stage. `stood_still_s`: the longest time in which the
    worker's process, or its machine, did nothing.
    """

    moments: Moments
    payload_bytes: int
    num_outputs: int
    usage: Usage
    stood_still_s: float = 0.0


class Content(Message, frozen=True):
    """Bytes that were asked for."""

    content: bytes


BUSY = "BusyError"


class Failed(Message, frozen=True):
    """The request failed; `kind` is the exception's name, or BUSY where another coordinator is served; and why.

    `ends`: the worker's process ends with this answer.
    """

    kind: str
    message: str
    ends: bool = False


Reply = Description | Pong | Done | Probed | Prepared | Trace | Content | Failed

encode = msgspec.msgpack.Encoder().encode
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)  # whatever octets make a decoder raise


def decode_request(content: bytes) -> Request:
    """What a coordinator said.

    Raises:
        ProtocolError: it is no request.
    """
    try:
        return _requests.decode(content)
    except UNREADABLE as exc:
        raise ProtocolError(f"a request that cannot be read: {exc}") from exc


def decode_reply(content: bytes) -> Reply:
    """What a worker said.

    Raises:
        ProtocolError: it is no answer.
    """
    try:
        return _replies.decode(content)
    except UNREADABLE as exc:
        raise ProtocolError(f"an answer that cannot be read: {exc}") from exc
