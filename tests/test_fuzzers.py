"""The fuzzers of `benchmarks/` run, and what they try holds, in a small number."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["pth", "safetensors", "YAML", "images"])
def test_a_mutated_file_is_read_or_one_error_that_names_it(kind, tmp_path):
    found = load("fuzz_files").fuzz(kind, 100, 1, tmp_path)
    assert found["raw"] == [] and "errors without the file's name" not in found
    assert found["errors"] + found.get("read", 0) == 100


def test_mutated_frames_messages_and_handshakes_are_read_or_one_error():
    fuzz_wire = load("fuzz_wire")
    inputs = fuzz_wire.Inputs()
    for kind in inputs.kinds:
        found = fuzz_wire.fuzz(kind, inputs, 100, 1)
        assert found["failures"] == []
        assert found["errors"] + found["read"] == 100
