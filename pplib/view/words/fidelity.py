"""What is said of accuracy, where the images have labels."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.trials.fidelity import accuracy_words


def fidelity_words(points: pd.DataFrame) -> str:
    """The accuracy of points of the same images, beside the model's own; empty where nobody knows the classes.

    Args:
        points: one row per configuration and point, see `point_table`.
    """
    if "labels_sha256" not in points.columns or points["labels_sha256"].isna().all():
        return ""
    known = points.dropna(subset=["accuracy"]) if "accuracy" in points.columns else points[:0]
    if known.empty:
        return "no accuracy, though the images have labels: the output is not one row of scores of classes per image"
    found = known["accuracy"]
    model, images = known["reference_accuracy"].median(), known["images_compared"].min()
    return accuracy_words(float(found.min()), float(model), float(images), float(found.max()))


def fidelity_lines(points: pd.DataFrame) -> list[str]:
    """The same for every model of a table, a line each."""
    told = {str(model): fidelity_words(rows) for model, rows in points.groupby("model", sort=False)}
    return [f"{model}: {words}." for model, words in told.items() if words]
