"""The exception tree: every error a user can act on is one of these."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParetoPipeError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigError(ParetoPipeError):
    """A parameter, grid, device or environment file does not say what it must."""


class ModelError(ParetoPipeError):
    """A model is unknown, cannot be built, or cannot be traced."""


class PartitionError(ModelError):
    """A partition point is not valid, or a cut does not compute what the model computes."""


class WeightsError(ModelError):
    """A weights file is missing, damaged, or does not fit the model."""


class DataError(ParetoPipeError):
    """A dataset is missing, unreadable, or too small."""


class FrameError(ParetoPipeError):
    """A table lacks a column, or a column or argument is not what the analysis needs."""


class TransportError(ParetoPipeError):
    """A connection failed: refused, closed by the peer, timed out."""


class DeadlineError(TransportError):
    """A peer did not say or take something in time; the connection may be well."""


class ProtocolError(TransportError):
    """The peer sent something the protocol or the partition plan does not allow."""


class HandshakeError(ProtocolError):
    """The peer could not prove the run's token, or speaks another version."""


class WorkerError(ParetoPipeError):
    """A worker could not be started, died, or reported a failure."""


class NoRoomError(WorkerError):
    """A device has no memory for a stage, a batch, or what is in flight: other cuts may do."""


class TrialError(ParetoPipeError):
    """A trial ran but its result cannot be believed (wrong output, impossible value)."""


class OutputError(ParetoPipeError):
    """Results cannot be written or do not belong to this configuration."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known words closest to `name`, or all of them where few.

    >>> nearest("mobilnet_v2", ["mobilenet_v2", "alexnet"])
    'nearest: mobilenet_v2'
    >>> nearest("zzz", ["socket", "rpc"])
    'known: socket, rpc'
    """
    words = list(known)
    close = difflib.get_close_matches(name, words, n=5, cutoff=0.5)
    if close:
        return "nearest: " + ", ".join(close)
    return "known: " + ", ".join(words[:40]) + (", ..." if len(words) > 40 else "")
