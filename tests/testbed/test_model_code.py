"""What travels with a user's own model: the files it is made of, and no others."""

from __future__ import annotations

import importlib
import sys

import pytest

from pplib.devices import load_testbed
from pplib.errors import ConfigError, ModelError
from pplib.links import UNSHAPED
from pplib.testbed.bundle import Bundle
from pplib.testbed.model_code import model_code
from pplib.testbed.session_file import SessionFile, digest, read_session
from tests.conftest import ROOT

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


def test_the_files_that_a_model_imports_travel_and_no_others(shop):
    code = model_code(["shop.deep.net:model", "alexnet"])
    assert sorted(code.files) == [
        "aside.py",
        "plain/inner/most.py",
        "shop/__init__.py",
        "shop/blocks.py",
        "shop/deep/__init__.py",
        "shop/deep/net.py",
        "shop/names.py",
        "shop/parts/wide.py",
    ]
    assert code.files["aside.py"] == b"late = 1"
    assert code.hash == model_code(["alexnet", "shop.deep.net:model"]).hash


def test_installed_models_and_those_of_the_library_bring_nothing():
    assert model_code([]) is None
    assert model_code(["alexnet"]) is None
    assert model_code(["torchvision.models:alexnet", "pplib.model.zoo:load_model", "__main__:model"]) is None


def test_a_file_that_is_no_python_is_named(shop):
    with pytest.raises(ModelError, match=r"broken.py: not readable as Python: .*line 1"):
        model_code(["broken:model"])


def test_a_session_whose_devices_have_another_version_of_a_model_is_not_used(tmp_path):
    testbed = load_testbed(ROOT / "params" / "devices" / "local.yaml")
    old, new = (Bundle("~/models", {"net.py": text, "other.py": b""}) for text in (b"1", b"2"))
    path = tmp_path / "session.json"
    session = SessionFile(digest(testbed), "00", ["socket"], [], 1.0, "none", "none", UNSHAPED, old.digests)
    session.write(path)
    assert read_session(path, testbed, ["socket"], old) == session
    assert read_session(path, testbed, ["socket"], None) == session
    with pytest.raises(ConfigError, match=r"the devices of that session have not net\.py as it is here"):
        read_session(path, testbed, ["socket"], new)
