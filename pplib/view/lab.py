"""`make lab`: JupyterLab, opened at the index, on copies of the notebooks that may be run and changed.

What Jupyter saves (outputs, another kernel's name, changed parameters) goes into the copies, which git ignores.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pplib import ROOT
from pplib.errors import OutputError
from pplib.records import write_atomic

COPIES = "my-notebooks"
INDEX = "index.ipynb"
# Settings of JupyterLab, beneath the person's own: a notebook that is opened again shows its charts and sliders,
# whose state Lab else throws away; nothing is asked about a network.
SETTINGS = {
    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}
_MARK = "paretopipe_copy_of"  # in a copy's metadata: the fingerprint of the cells it was copied from


def refresh_copies(originals: Path, copies: Path) -> list[Path]:
    """Copy every notebook, and the index, into `copies`; nothing that a person wrote is lost.

    A copy whose cells were changed stays as it is while its original does. When the original changes, such a
    copy is renamed (`run-mine.ipynb`), and a new one takes its place.

    Args:
        originals: the folder of the notebooks.
        copies: made if missing.

    Returns:
        The copies that were renamed, under their new names.

    Raises:
        OutputError: the folder cannot be written.
    """
    renamed = []
    for path in sorted(originals.glob("*.ipynb")):
        book = json.loads(path.read_bytes())
        mark, copy = fingerprint(book), copies / path.name
        there = _read(copy)
        if there is not None:
            copied_from = there.get("metadata", {}).get(_MARK)
            if copied_from == mark:
                continue
            if copied_from != fingerprint(there):
                renamed.append(_set_aside(copy))
        elif copy.exists():
            renamed.append(_set_aside(copy))
        book["metadata"][_MARK] = mark
        write_atomic(copy, json.dumps(book, indent=1, ensure_ascii=False).encode() + b"\n")
    write_atomic(copies / INDEX, json.dumps(_index((originals / "README.md").read_text()), indent=1).encode() + b"\n")
    return renamed


def fingerprint(book: Mapping[str, Any]) -> str:
    """Of what a person writes in a notebook: its cells, without outputs or counters."""
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in book["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _index(text: str) -> dict[str, Any]:
    """The index as a notebook of one cell: Lab shows that as a page, where it shows Markdown as its source."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = {"cell_type": "markdown", "id": "index", "metadata": {}, "source": text}
    return {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _read(path: Path) -> dict[str, Any] | None:
    """A notebook; None where there is none, or something else."""
    try:
        book = json.loads(path.read_bytes())
        fingerprint(book)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(book)


def _set_aside(path: Path) -> Path:
    """Rename a notebook to a name that is free."""
    number = 1
    while (new := path.with_name(f"{path.stem}-mine{number if number > 1 else ''}{path.suffix}")).exists():
        number += 1
    try:
        return path.rename(new)
    except OSError as exc:
        raise OutputError(f"{path}: cannot be renamed to {new.name}: {exc.strerror}") from exc


def main(arguments: list[str] | None = None, prog: str = "") -> None:
    """Refresh the copies, then become JupyterLab; arguments are handed on to it, `--help` too."""
    try:
        renamed = refresh_copies(ROOT / "notebooks", ROOT / COPIES)
        settings = ROOT / COPIES / ".jupyter"
        write_atomic(settings / "labconfig" / "default_setting_overrides.json", json.dumps(SETTINGS, indent=1).encode())
    except OutputError as exc:
        sys.exit(f"error: {exc}")
    for path in renamed:
        sys.stdout.write(f"{path.relative_to(ROOT)}: yours, kept under this name: the notebook itself is a newer one\n")
    paths = [str(settings), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(path for path in paths if path)
    url, given = f"/lab/tree/{COPIES}/{INDEX}", sys.argv[1:] if arguments is None else arguments
    lab = ["-m", "jupyter", "lab", f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={url}"]
    if os.geteuid() == 0 and "--allow-root" not in given:
        sys.stdout.write("you are root, and so is whoever opens this JupyterLab: its token is the only guard\n")
        lab.append("--allow-root")  # Jupyter refuses otherwise
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *lab, *given])


if __name__ == "__main__":
    main()
