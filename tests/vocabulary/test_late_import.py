"""An import that is put off is made when it is needed, and no sooner."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from pplib.files.late_import import put_off_slow_imports
put_off_slow_imports()
put_off_slow_imports()
import jsonschema
assert "lark" not in sys.modules, "the grammar has been read"
checker = jsonschema.Draft7Validator.FORMAT_CHECKER
assert checker.conforms("http://example.org/ä", "iri") and not checker.conforms("no address", "iri")
assert "lark" in sys.modules
import rfc3987_syntax
assert rfc3987_syntax.__file__
"""


def test_jsonschema_is_there_at_once_and_checks_addresses_all_the_same():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=60)


TORCHVISION = """
import sys
from pplib.model.zoo import input_shape, load_model, preprocessing
load_model("mobilenet_v2")
preprocessing("mobilenet_v2")
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler has been loaded"
pooling = sys.modules["torchvision.ops.roi_align"]
assert pooling.is_compile_supported("cpu") in (True, False)
import torch._dynamo.utils
assert torch._dynamo.utils.__file__ and torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
"""


def test_torchvision_is_there_without_the_compiler_which_is_loaded_when_it_is_asked_for():
    subprocess.run([sys.executable, "-c", TORCHVISION], check=True, timeout=120)
