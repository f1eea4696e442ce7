"""Fidelity: how near what a pipeline computes is to the whole float32 model, and how often both are right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pplib.errors import TrialError

Array = npt.NDArray[Any]

_TOP = 5


@dataclass(frozen=True)
class Fidelity:
    """What `compare` found of one trial; the names are columns of `summary.csv`, shares are from 0 to 1.

    `max_abs_err` and `cosine_similarity` are the worst of all `outputs_checked` microbatches. The shares are of the
    `images_compared`, each of which counts once however often it passed: as agreeing, or as right, if it was so each
    time. None where the output is not one score per class for each image, or where there are no labels.
    """

    max_abs_err: float
    outputs_checked: float
    cosine_similarity: float
    top1_agreement: float | None
    accuracy: float | None
    accuracy_top5: float | None
    reference_accuracy: float | None
    images_compared: float


def compare(
    pairs: Iterable[tuple[Array, Array, float | None]], distinct: int, batch_size: int, labels: Array | None = None
) -> Fidelity:
    """Compare a trial's outputs with the whole model's.

    Args:
        pairs: for each microbatch, warm-up first, the pipeline's output, the float32 model's, both float64 and of any
            shape, or scores of shape (batch_size, classes), and the largest difference that rounding may make; None
            where more than rounding is lost: then `check_agreement` judges what is found.
        distinct: after so many microbatches the same images come again.
        batch_size: images per microbatch.
        labels: the right class of each image, (distinct * batch_size,).

    Raises:
        TrialError: an output has another shape, differs by more than is allowed, or is not finite.
    """
    worst, alike, checked, seen = 0.0, 1.0, 0, dict[int, Array]()
    classes = 0
    for seq, (output, reference, allowed) in enumerate(pairs):
        worst, part = max(worst, _error(seq, output, reference, allowed)), seq % distinct
        alike = min(alike, _cosine(_rows(output, batch_size), _rows(reference, batch_size)))
        checked = seq + 1
        if reference.ndim == 2 and len(reference) == batch_size and reference.shape[1] > 1:
            classes = reference.shape[1]
            marks = [output.argmax(axis=1) == reference.argmax(axis=1)]
            if labels is not None:
                right = labels[part * batch_size :][:batch_size]
                marks += [*_hits(output, right), *_hits(reference, right)]
            seen[part] = np.logical_and(marks, seen.get(part, True))
    shares = np.concatenate([*seen.values()], axis=1).mean(axis=1).tolist() if seen else []
    agreement, top1, top5, reference_top1 = [*shares, None, None, None, None][:4]
    return Fidelity(
        max_abs_err=worst,
        outputs_checked=float(checked),
        cosine_similarity=alike,
        top1_agreement=agreement,
        accuracy=top1,
        accuracy_top5=top5 if classes > _TOP else None,
        reference_accuracy=reference_top1,
        images_compared=float(min(checked, distinct) * batch_size),
    )


def check_agreement(found: Fidelity, least: float) -> None:
    """Judge a lossy trial, by the share of images on whose class it agrees with the float32 model.

    Where the outputs are no scores of classes, the smallest cosine similarity takes its place.

    Raises:
        TrialError: it is below `least`, `Configuration.min_agreement`.
    """
    share = found.cosine_similarity if found.top1_agreement is None else found.top1_agreement
    if share >= least:
        return
    what = f"cosine similarity {share:.4g} at the worst of {found.images_compared:.0f} images, expected {least:.4g}"
    if found.top1_agreement is not None:
        what = f"the same class for {share:.2%} of {found.images_compared:.0f} images, expected {least:.2%}"
    more = ""
    if found.accuracy is not None and found.reference_accuracy is not None:
        more = f"; {accuracy_words(found.accuracy, found.reference_accuracy, found.images_compared)}"
    raise TrialError(
        f"the pipeline does not agree with the float32 model: {what} at least (min_agreement){more}; largest error "
        f"{found.max_abs_err:.3g}: calibrate with more images, take another precision or wire, or lower min_agreement"
    )


def accuracy_words(accuracy: float, reference: float, images: float, most: float | None = None) -> str:
    """An accuracy, or the range from it to `most`, beside the model's own on as many images.

    >>> accuracy_words(0.972, 0.974, 500.0)
    'accuracy 97.2 % (float32 model 97.4 %), 500 images'
    """
    last = "" if most is None or most == accuracy else f" to {100 * most:.3g}"
    return f"accuracy {100 * accuracy:.3g}{last} % (float32 model {100 * reference:.3g} %), {images:.0f} images"


def _error(seq: int, output: Array, reference: Array, allowed: float | None) -> float:
    """The largest difference, if it is one that is allowed."""
    what = "this cut does not compute what the model computes"
    if output.shape != reference.shape:
        raise TrialError(
            f"microbatch {seq}: the pipeline's output has shape {output.shape}, the model's {reference.shape}: {what}"
        )
    error = float(np.abs(output - reference).max())
    if not error <= (np.finfo(np.float64).max if allowed is None else allowed):
        limit = "something finite" if allowed is None else f"at most {allowed:.3g}"
        raise TrialError(
            f"microbatch {seq}: the pipeline's output differs from the model's by {error:.3g}, expected {limit}: {what}"
        )
    return error


def _rows(values: Array, images: int) -> Array:
    return values.reshape(images if values.ndim and len(values) == images else 1, -1)


def _cosine(output: Array, reference: Array) -> float:
    """The smallest over the rows; of two that are zero it is 1."""
    lengths = np.linalg.norm(output, axis=1) * np.linalg.norm(reference, axis=1)
    same = (output == reference).all(axis=1)
    return float(np.where(same, 1.0, (output * reference).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)).min())


def _hits(scores: Array, right: Array) -> list[Array]:
    """For each image whether the right class is first, and whether it is among the first five.

    Of equal scores the lower class is first, as `argmax` has it.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < right[:, None]))
    place = before.sum(axis=1)
    return [place < 1, place < _TOP]
