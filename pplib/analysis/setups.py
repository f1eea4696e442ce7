"""What differs between trials beside their configuration's own columns: they are compared, and never pooled."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_DISTINGUISHING = (
    ("seed", "seed"),
    ("num_classes", "classes"),
    ("num_images", "images"),
    ("max_trial_s", "trial limit (s)"),
    ("devices", "devices"),
    ("device_names", "device names"),
    ("device_torch_devices", "on"),
    ("device_threads", "threads"),
    ("device_slowdowns", "slowdown"),
    ("cpu", "CPU"),
    ("gpu", "GPU"),
    ("torch", "torch"),
    ("congestion_control", "TCP"),
    ("link_tunnel", "tunnel"),
    ("link_requested_rtt_s", "requested round trip (s)"),
    ("link_requested_forward_bit_s", "requested forward rate (bit/s)"),
    ("link_requested_backward_bit_s", "requested backward rate (bit/s)"),
    ("link_requested_loss", "requested loss"),
    ("model_sha256", "model code"),
    ("weights_sha256", "content of the weights"),
    ("images_sha256", "content of the images"),
    ("labels_sha256", "content of the labels"),
    ("run", "run"),
    ("folder", "folder"),
)
"""Columns in the order in which they are told, and the words for them: only those that tell trials apart."""

_NONE_IS_A_VALUE = ("num_classes", "max_trial_s")


def setups(frame: pd.DataFrame, keys: Sequence[str]) -> pd.Series[str]:
    """For each trial, what tells it from others with the same `keys`: "" where nothing does.

    A column is told only where it separates trials that `keys` and the columns before it do not. What a
    trial does not say (it is older than the column) separates nothing.

    Args:
        frame: one row per trial.
        keys: the columns that are told anyway.

    >>> frame = pd.DataFrame({"model": ["a", "a", "b"], "seed": [0, 1, 0], "cpu": ["x", "y", "y"]})
    >>> setups(frame, ["model"]).tolist()
    ['seed 0', 'seed 1', 'seed 0']
    """
    told = [key for key in keys if key in frame.columns]
    words = pd.Series([""] * len(frame), index=frame.index, dtype="object")
    for column, word in _DISTINGUISHING:
        if column not in frame.columns or column in told:
            continue
        known = column not in _NONE_IS_A_VALUE  # and what is not known separates nothing
        groups = frame.groupby(told, dropna=False, sort=False)[column] if told else [("", frame[column])]
        if any(values.nunique(dropna=known) > 1 for _, values in groups):
            said = frame[column].map(lambda value, word=word: f"{word} {_shown(word, value)}")
            words = words.where(words == "", words + ", ") + said
            told.append(column)
    return words


def _shown(word: str, value: object) -> str:
    """A value in few characters: a device file by its name, a hash by its beginning."""
    if value is None or value != value:
        return "as the model has" if word == "classes" else "none" if word == "trial limit (s)" else "unknown"
    if word == "devices":
        return str(value).rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
    if word.startswith("content") or word == "model code":
        return str(value)[:8]
    return f"{value:g}" if isinstance(value, float) else str(value)
