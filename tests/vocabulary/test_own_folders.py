"""Temporary folders: gone with their process, however that ended, and never those of a living one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pplib.files.own_folder import own_folder, remove_abandoned
from pplib.records import remove_half_written, write_atomic

HOLD = (
    "from pplib.files.own_folder import own_folder\n"
    "with own_folder() as folder:\n    print(folder, flush=True); input()"
)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_its_users_only_and_ends_with_the_context(temporary):
    with own_folder("x-") as folder:
        assert folder.parent == temporary
        assert folder.name.startswith("paretopipe-x-")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_not_before(temporary):
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        folder = Path(process.stdout.readline().strip())
        (folder / "log").write_text("x")
        remove_abandoned()
        assert folder.is_dir()
        process.kill()
    assert folder.is_dir()
    with own_folder():
        assert not folder.exists()


def test_folders_and_links_that_are_not_known_to_be_ours_stay(temporary):
    strange, elsewhere = temporary / "paretopipe-theirs", temporary / "elsewhere"
    strange.mkdir()
    elsewhere.mkdir()
    (elsewhere / ".owner").touch()
    (temporary / "paretopipe-link").symlink_to(elsewhere)
    (temporary / "paretopipe-file").touch()
    remove_abandoned()
    assert len(list(temporary.iterdir())) == 4
    assert (elsewhere / ".owner").exists()


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, target):
        raise Killed

    monkeypatch.setattr(Path, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    for place in (tmp_path, tmp_path / "trials"):
        with pytest.raises(Killed):
            write_atomic(place / "P7_r0.json", b"half")
        (place / ".mine").touch()
    monkeypatch.undo()
    remove_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".mine", ".mine"]
