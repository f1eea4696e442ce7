"""Folders of temporary files that end with the process that made them: at the latest, the next one removes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "paretopipe-"
OWNER = ".owner"  # a file that the process which made the folder has locked; the lock ends with that process


@contextlib.contextmanager
def own_folder(kind: str = "") -> Iterator[Path]:
    """A new folder for this user only, until the context ends; those of processes that were killed are removed.

    Args:
        kind: a letter or two for its name.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}"))  # mode 0700
    with (folder / f"{OWNER}.new").open("wb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        (folder / f"{OWNER}.new").rename(folder / OWNER)  # never there without its lock
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders that this user's killed processes left in the folder of temporary files."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another may remove it at the same time; what is not ours is not touched.
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink():
                with (folder / OWNER).open("rb") as owner:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
