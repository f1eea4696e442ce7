"""An environment that has what a file of requirements lists, and what that needs, and nothing else."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement


def distributions(requirements):
    """Those of this environment that a file of requirements asks for, and those that they need, by name."""
    waiting = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    found = {}
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found[wanted.name] = one = importlib.metadata.distribution(wanted.name)
            assert wanted.specifier.contains(one.version), (str(wanted), one.version)
            waiting += one.requires or []
    return found


def environment(folder, requirements):
    """A virtual environment in `folder` with links to these packages of this one; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    for one in distributions(requirements).values():
        place = Path(one.locate_file(""))
        for top in {file.parts[0] for file in one.files} - {"..", "__pycache__"}:
            if (place / top).exists() and not (packages / top).exists():
                (packages / top).symlink_to(place / top)
    return folder / "bin" / "python"
