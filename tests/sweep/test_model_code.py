"""The files that a user's own model is made of, and no others."""

from __future__ import annotations

import importlib
import sys

import pytest

from pplib.errors import ModelError
from pplib.testbed.shipping.model_code import model_code

FILES = {
    "shop/__init__.py": "from shop import names\n",
    "shop/names.py": "",
    "shop/deep/__init__.py": "",
    "shop/deep/net.py": """
import json
import torch.nn
import numpy as np
from .. import blocks
from ..parts.wide import Wide
from ...beyond import nothing
try:
    import not_there
except ImportError:
    pass

def model():
    from aside import late
""",
    "shop/blocks.py": "import pplib.errors\nimport plain.inner.most as most",
    "shop/parts/wide.py": "class Wide: pass",  # a folder without __init__.py
    "shop/unused.py": "secret = 1",
    "shop/data.json": "{}",
    "aside.py": "late = 1",
    "plain/inner/most.py": "",
    "unused.py": "",
    "broken.py": "def model(:\n",
}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_files_that_a_model_imports_are_found_and_no_others(shop):
    code = model_code("shop.deep.net:model")
    assert list(code) == [
        "aside.py",
        "plain/inner/most.py",
        "shop/__init__.py",
        "shop/blocks.py",
        "shop/deep/__init__.py",
        "shop/deep/net.py",
        "shop/names.py",
        "shop/parts/wide.py",
    ]
    assert code["aside.py"] == b"late = 1"


def test_installed_models_and_those_of_the_library_have_none():
    for name in ("alexnet", "torchvision.models:alexnet", "pplib.model.zoo:load_model", "__main__:model"):
        assert model_code(name) == {}


def test_a_file_that_is_no_python_is_named(shop):
    with pytest.raises(ModelError, match=r"broken.py: not readable as Python: .*line 1"):
        model_code("broken:model")
