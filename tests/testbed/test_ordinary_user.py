"""The same engines and devices for a user without any right: their tests again, as somebody."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

HERE = Path(__file__).resolve().parent
SOMEBODY = 54_321  # a user of the test's own: nobody may not log in anywhere
# What to run of each file, and how many tests that is: with one engine or two, in the first.
WORTH_IT = {
    "testbed/test_namespaces.py": ("reach_each_other or (every_hop and 3) or (nothing_is_left and kill)", {3, 5}),
    "sweep/test_links.py": ("every_byte_crosses", {3}),
    "testbed/test_remote_ssh.py": (
        "runs_on_the_device or unknown_host_key or switched_off or whole_under_its_name or shaped_over_ssh or "
        "nothing_is_left_when or closing_leaves",
        {7},
    ),
}


def closed_folders(paths):
    """Folders on the way to `paths` that others may not pass, such as the home of root."""
    ways = {folder for path in paths for folder in [*path.parents, path]}
    return sorted(folder for folder in ways if folder.is_dir() and not folder.stat().st_mode & 0o001)


def script(paths, inner, scratch):
    """A shell script for a mount namespace in which `paths` can be reached by everybody, and nothing else is opened."""
    lines = ["set -e", "mount --make-rprivate /", f"mount --bind {scratch}/passwd /etc/passwd"]
    for i, path in enumerate(paths):
        lines += [f"mkdir {scratch}/{i}", f"mount --bind {shlex.quote(str(path))} {scratch}/{i}"]
    for folder in closed_folders(paths):
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(folder))}")
        for i, path in enumerate(paths):
            if path.is_relative_to(folder):
                lines += [
                    f"mkdir -p {shlex.quote(str(path))}",
                    f"mount --bind {scratch}/{i} {shlex.quote(str(path))}",
                ]
    lines.append(f"cd {shlex.quote(str(HERE.parents[1]))}")
    lines.append(
        f"exec setpriv --reuid {SOMEBODY} --regid {SOMEBODY} --clear-groups --no-new-privs {shlex.join(inner)}"
    )
    return "\n".join(lines)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are a feature of Linux")
@pytest.mark.timeout(520)
def test_emulated_links_and_devices_over_ssh_work_for_an_ordinary_user(remote_possible):
    """One run for all of it, as starting takes its time."""
    if os.geteuid() != 0:
        return  # then the tests themselves have shown it
    worth_it = " or ".join(f"({Path(file).name} and ({which}))" for file, (which, _) in WORTH_IT.items())
    scratch = Path(tempfile.mkdtemp())
    try:
        home = scratch / "home"
        home.mkdir()
        scratch.chmod(0o755)
        home.chmod(0o777)
        entry = f"somebody:*:{SOMEBODY}:{SOMEBODY}::{home}:/bin/sh\n"
        (scratch / "passwd").write_text(Path("/etc/passwd").read_text() + entry)
        (scratch / "passwd").chmod(0o644)
        inner = [sys.executable, "-m", "pytest", "-q", "-rps", "-p", "no:cacheprovider"]
        inner += ["--basetemp", str(home / "tmp"), "-k", worth_it, *(str(HERE.parent / file) for file in WORTH_IT)]
        paths = list(dict.fromkeys([HERE.parents[1], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]))
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script(paths, inner, str(scratch))],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        shutil.rmtree(scratch)
    if "Operation not permitted" in done.stderr and not done.stdout:
        pytest.skip(f"this root may not mount, so it cannot open the interpreter to another user: {done.stderr}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-4000:]
    for file, (_, counts) in WORTH_IT.items():
        passed = re.findall(rf"^PASSED tests/{re.escape(file)}::", done.stdout, re.MULTILINE)
        assert len(passed) in counts, done.stdout[-6000:]
