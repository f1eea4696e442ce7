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
