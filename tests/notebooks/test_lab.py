"""`make lab` works on copies: nothing that git tracks changes, and nothing that a person wrote is lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from pplib.view import lab
from pplib.view.lab import refresh_copies

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def originals(tmp_path):
    return Path(shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks"))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def run_and_save(path):
    """What JupyterLab leaves when a notebook was run and saved."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
            cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    book.metadata.kernelspec.display_name = "another"
    book.metadata.language_info.version = "3.14.0"
    nbformat.write(book, path)


def test_the_index_links_every_notebook_in_reading_order():
    linked = re.findall(r"^\d\. \[(\w+\.ipynb)\]\(\1\)", (ROOT / "notebooks" / "README.md").read_text(), re.M)
    order = ["profile", "split", "plan", "run", "sweep", "analyze", "compare"]
    assert linked == [f"{name}.ipynb" for name in order]
    assert sorted(linked) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_lab_opens_the_index_of_the_copies_and_git_ignores_all_that_is_saved_there(monkeypatch, tmp_path, originals):
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    started = []
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/their/own")
    monkeypatch.setattr(lab.os, "execv", lambda program, command: started.append(command))
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000)
    lab.main(["--no-browser"])
    assert "--allow-root" not in started[0]
    assert "--LabApp.default_url=/lab/tree/my-notebooks/index.ipynb" in started[0]
    assert started[0][-1] == "--no-browser"
    ours, theirs = lab.os.environ["JUPYTER_CONFIG_PATH"].split(":")
    assert theirs == "/their/own"
    settings = json.loads((Path(ours) / "labconfig" / "default_setting_overrides.json").read_text())
    index = nbformat.read(tmp_path / "my-notebooks" / "index.ipynb", as_version=4)
    nbformat.validate(index)
    assert "(profile.ipynb)" in index.cells[0].source
    assert settings["@jupyter-widgets/jupyterlab-manager:plugin"]["saveState"] is True
    for path in originals.glob("*.ipynb"):
        run_and_save(tmp_path / "my-notebooks" / path.name)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert status.stdout == ""


def test_a_copy_that_was_only_run_follows_its_original(originals, tmp_path):
    copies = tmp_path / "copies"
    refresh_copies(originals, copies)
    run_and_save(copies / "run.ipynb")
    kept = (copies / "run.ipynb").read_bytes()
    assert refresh_copies(originals, copies) == []
    assert (copies / "run.ipynb").read_bytes() == kept
    edit(originals / "run.ipynb", "# One cut, live", "# One cut, alive")
    assert refresh_copies(originals, copies) == []
    assert "# One cut, alive" in (copies / "run.ipynb").read_text()


def test_a_copy_that_was_edited_is_never_written_over(originals, tmp_path):
    copies = tmp_path / "copies"
    refresh_copies(originals, copies)
    for turn, name in enumerate(("run-mine.ipynb", "run-mine2.ipynb")):
        edit(copies / "run.ipynb", "num_images: int = 64", f"num_images: int = {turn + 8}")
        run_and_save(copies / "run.ipynb")
        mine = (copies / "run.ipynb").read_bytes()
        assert refresh_copies(originals, copies) == []
        assert (copies / "run.ipynb").read_bytes() == mine
        edit(originals / "run.ipynb", "# One cut, live", f"# One cut, live\\n{turn}")
        assert refresh_copies(originals, copies) == [copies / name]
        assert (copies / name).read_bytes() == mine
        assert "num_images: int = 64" in (copies / "run.ipynb").read_text()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": 3, "metadata": {}}', json.dumps({"cells": []})])
def test_what_is_no_copy_of_ours_is_set_aside_too(originals, tmp_path, text):
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "run.ipynb").write_text(text)
    assert refresh_copies(originals, copies) == [copies / "run-mine.ipynb"]
    assert (copies / "run-mine.ipynb").read_text() == text
    assert "One cut, live" in (copies / "run.ipynb").read_text()


@pytest.mark.parametrize("given", [[], ["--allow-root"]])
def test_root_gets_a_jupyterlab_too_and_is_told_what_that_means(monkeypatch, tmp_path, originals, capsys, given):
    started = []
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    monkeypatch.setattr(lab.os, "geteuid", lambda: 0)
    monkeypatch.setattr(lab.os, "execv", lambda program, command: started.append(command))
    lab.main(given)
    assert started[0].count("--allow-root") == 1
    assert ("you are root" in capsys.readouterr().out) is not bool(given)
