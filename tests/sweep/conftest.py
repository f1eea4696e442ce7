"""Small experiments for the sweep tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "name": "tiny",
    "model": "tests.models:tiny",
    "num_images": 8,
    "batch_size": 2,
    "partition_points": [0, 2, 4],
    "in_flight": 2,
    "repeats": 2,
    "devices": str(ROOT / "params" / "devices" / "local.yaml"),
}


@pytest.fixture
def tiny(tmp_path):
    """Parameters of a small configuration that writes below tmp_path."""
    return {**TINY, "output_dir": str(tmp_path / "out")}
