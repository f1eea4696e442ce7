"""The one command: what it offers, and that the older names of its parts go on working."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pplib.__main__ import COMMANDS, main

OLDER = {"sweep": "pplib.sweep", "check": "pplib.devices check", "setup": "pplib.devices setup", "cache": "pplib.cache"}


def test_help_names_every_command_and_imports_none_of_them(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name:7} " in said for name in COMMANDS)
    code = "import sys; from pplib.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [[], ["swep"]])
def test_what_is_no_command_is_refused_with_the_nearest(capsys, words):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.endswith("error: unknown command 'swep'; nearest: sweep, setup\n" if words else "expected a command\n")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "lab"])
def test_a_command_says_by_its_own_name_how_it_is_used(capsys, name):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: paretopipe {name} [-h]")


def test_an_error_of_a_part_is_the_exit_status_of_the_whole(capsys, tmp_path):
    for name in ("sweep", "check"):
        assert main([name, str(tmp_path / "none.yaml")]) == 1
        assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("words", OLDER.values(), ids=OLDER)
def test_the_older_names_go_on_working(words):
    said = subprocess.run(
        [sys.executable, "-m", *words.split(), "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert said.startswith("usage: python -m pplib")
