"""Servers and devices of a user without any right: the tests over SSH again, as somebody."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
WORTH_IT = (
    "runs_on_the_device or unknown_host_key or switched_off or whole_under_its_name or shaped_over_ssh or "
    "nothing_is_left_when or closing_leaves"
)


def other_test():
    spec = importlib.util.spec_from_file_location("ordinary_user", HERE / "test_ordinary_user.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are a feature of Linux")
@pytest.mark.timeout(300)
def test_devices_over_ssh_work_for_an_ordinary_user():
    if os.geteuid() != 0:
        return  # then test_remote_ssh.py has shown it
    other = other_test()
    scratch = Path(tempfile.mkdtemp())
    try:
        home = scratch / "home"
        home.mkdir()
        scratch.chmod(0o755)
        home.chmod(0o777)
        # A user of the test's own: nobody may not log in anywhere.
        other.NOBODY = 54_321
        entry = f"somebody:*:{other.NOBODY}:{other.NOBODY}::{home}:/bin/sh\n"
        (scratch / "passwd").write_text(Path("/etc/passwd").read_text() + entry)
        (scratch / "passwd").chmod(0o644)
        inner = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--basetemp", str(home / "tmp")]
        inner += [str(HERE / "test_remote_ssh.py"), "-k", WORTH_IT]
        paths = list(dict.fromkeys([HERE.parents[1], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]))
        start = "mount --make-rprivate /\n"
        script = other.script(paths, inner, str(scratch))
        assert start in script
        script = script.replace(start, f"{start}mount --bind {scratch}/passwd /etc/passwd\n")
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        shutil.rmtree(scratch)
    if "Operation not permitted" in done.stderr and not done.stdout:
        pytest.skip(f"this root may not mount, so it cannot open the interpreter to another user: {done.stderr}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-4000:]
    assert "7 passed" in done.stdout, done.stdout[-4000:]
