"""The control plane's vocabulary: what a coordinator asks of a worker, and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pplib.runtime.plan import PipelinePlan, TensorSpec
from pplib.runtime.usage import Usage


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
    """Tell how many bytes of the weights with this content hash you hold."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class PutWeights(Message, frozen=True):
    """`count` bytes of these weights follow, from `offset` on; keep the file when its content has the hash."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=0)]


class OpenHops(Message, frozen=True):
    """Join the ring of workers: connect to the next stage, be connected to by the previous.

    `peers` are (name, endpoint) in stage order: where each takes activations, as its neighbours reach it. For
    rpc, `master` is where rank 0 meets the others.
    """

    backend: Literal["socket", "rpc"]
    stage_index: int
    peers: tuple[tuple[str, str], ...]
    run: str
    master: tuple[str, int] | None
    timeout_s: float


class FreePort(Message, frozen=True):
    """Name a TCP port of yours that is free now (for the meeting point of an rpc group)."""


class Probe(Message, frozen=True):
    """Measure the link to `peer` together with it; one of the two connects, one leads.

    echo: the leader asks, for `window_s` or 100 times, at least 9 times. stream: the leader receives,
    for `settle_s` and then `window_s`, and the other end has no more than `ahead_bytes` on their way.
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


class CloseHops(Message, frozen=True):
    """Leave the ring; all workers are told at the same time."""


class Prepare(Message, frozen=True):
    """Build your stage of this plan, with its weights, and drop the one you had."""

    plan: PipelinePlan
    stage_index: int


class Run(Message, frozen=True):
    """Run microbatches through the pipeline as this trial: `most`, or as many as fit in `limit_s`, at least `least`."""

    trial: int
    plan_digest: str
    most: int
    least: int
    limit_s: float | None
    timeout_s: float


class Abort(Message, frozen=True):
    """Give up the running request; never answered, the request itself fails."""


class Stop(Message, frozen=True):
    """End the process."""


Request = (
    Describe
    | Ping
    | PutInputs
    | HaveWeights
    | PutWeights
    | OpenHops
    | FreePort
    | Probe
    | CloseHops
    | Prepare
    | Run
    | Abort
    | Stop
)


class Description(Message, frozen=True):
    """What a worker is and runs on.

    `rpc_groups`: how many rpc groups its process has joined. PyTorch counts them, and lets only
    processes that have joined equally many find each other.
    """

    name: str
    boot_id: str
    pid: int
    host: dict[str, str | int | float]
    data_host: str
    data_port: int
    backends: tuple[str, ...]
    rpc_groups: int


class Pong(Message, frozen=True):
    """The worker's CLOCK_MONOTONIC when it answered."""

    monotonic_ns: int


class Done(Message, frozen=True):
    """The request was carried out; `value` where it asked for a number."""

    value: int = 0


class Probed(Message, frozen=True):
    """What one end of a probe saw: `rtts_s` the leader of an echo, `goodput_bit_s` the leader of a
    stream, the rest the sender of a stream, where its system tells.
    """

    rtts_s: list[float] = []
    goodput_bit_s: float = 0.0
    segment_bytes: int | None = None
    resent: float | None = None


class Prepared(Message, frozen=True):
    """The stage is ready: what it holds."""

    build_s: float
    param_bytes: int
    resident_bytes: int


class Ran(Message, frozen=True):
    """What one stage saw, one entry per microbatch, in ns of the worker's own CLOCK_MONOTONIC.

    The fields are those of `StageTimeline`. `returned_ns` only on stage 0; `outputs` (raw bytes of
    the model's outputs, in order) only on the last.
    """

    ready_ns: list[int]
    received_ns: list[int]
    compute_start_ns: list[int]
    compute_end_ns: list[int]
    copy_ns: list[int]
    send_start_ns: list[int]
    returned_ns: list[int]
    payload_bytes: int
    outputs: list[bytes]
    usage: Usage


class Failed(Message, frozen=True):
    """The request failed; `kind` is the exception's name, `message` its text."""

    kind: str
    message: str


Reply = Description | Pong | Done | Probed | Prepared | Ran | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
