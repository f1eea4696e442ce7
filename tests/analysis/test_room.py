"""The analysis room stays light: no torch, no charts."""

from __future__ import annotations

import subprocess
import sys


def test_the_analysis_room_pulls_in_neither_torch_nor_charts():
    code = (
        "import importlib, pkgutil, sys, pplib.analysis as room; "
        "[importlib.import_module(one.name) for one in pkgutil.iter_modules(room.__path__, 'pplib.analysis.')]; "
        "print([name for name in ('torch', 'altair', 'ipywidgets', 'IPython') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
