"""The weights cache: a limit, the least recently used first, nothing in use, nothing half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from pplib.cache import entries, is_used, limit_bytes, make_room, put, remove_unused, use, weights_dir, writing
from pplib.cache.__main__ import main
from pplib.errors import ConfigError
from pplib.model.weights.files import save_weights

HOLD = """
import sys; from pathlib import Path; from pplib.cache import use
use(Path(sys.argv[1])); print(flush=True); input()
"""
WRITE = """
import sys; from pathlib import Path; from pplib.cache import weights_dir, writing
with writing(Path(sys.argv[1]), 0):
    (weights_dir(Path(sys.argv[1])) / ".part-x").write_bytes(b"half")
    print(flush=True); input()
"""


def keep(cache, name, size, used_s):
    """A whole file of the cache."""
    path = weights_dir(cache) / f"{name * 64}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (used_s, used_s))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    monkeypatch.setenv("PARETOPIPE_CACHE_GB", "0.000001")  # 1000 bytes
    return tmp_path


@pytest.fixture
def other():
    """Starts another process that says a word once it has begun, and waits."""
    started = []

    def start(script, *words):
        command = [sys.executable, "-c", script, *map(str, words)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_least_recently_used_makes_room_for_what_is_to_come(cache):
    first, second, third = (keep(cache, name, 300, used_s) for name, used_s in (("a", 30), ("b", 10), ("c", 20)))
    with writing(cache, 600):
        assert [path.exists() for path in (first, second, third)] == [True, False, False]
    use(first)
    keep(cache, "d", 800, 40)
    make_room(cache, 0)
    assert [entry.path.name[0] for entry in entries(cache)] == ["a"]


def test_a_file_that_a_process_uses_stays_until_that_process_has_ended(cache, other):
    path = keep(cache, "a", 5000, 1)
    process = other(HOLD, path)
    assert is_used(path)
    assert make_room(cache, 0) == 0
    assert not remove_unused(path)
    process.kill()
    process.wait()
    assert make_room(cache, 0) == 5000
    assert not path.exists()


def test_what_a_killed_writer_left_is_removed_by_the_next_and_not_what_a_living_one_writes(cache, other):
    half = weights_dir(cache) / ".part-x"
    beginning = weights_dir(cache) / f".{'a' * 64}.part"
    process = other(WRITE, cache)
    beginning.write_bytes(b"the beginning of a transfer, which goes on")
    (weights_dir(cache) / ".tmpAbC").write_bytes(b"safetensors' own")
    with writing(cache, 0):
        assert half.exists()
    process.kill()
    process.wait()
    with writing(cache, 0):
        assert list(weights_dir(cache).iterdir()) == [beginning]


def test_a_file_is_put_in_its_place_whole_and_after_the_disk_has_it(cache, monkeypatch):
    path = keep(cache, "a", 10, 1)
    new = path.with_name(".part-new")
    new.write_bytes(b"new")
    done = []
    monkeypatch.setattr(
        "pplib.cache.os.fsync", lambda handle: done.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
    )
    put(new, path)
    assert done == [str(new), str(path.parent)]
    assert path.read_bytes() == b"new"


def test_saved_weights_are_in_use_and_make_room(cache):
    old = keep(cache, "a", 950, 1)
    file = save_weights(nn.Linear(4, 4), cache)
    assert not old.exists()
    assert is_used(file.path)


@pytest.mark.parametrize("said", ["much", "-1", "1e3", "nan", "9" * 30])
def test_a_limit_that_is_no_number_is_named(cache, monkeypatch, said):
    monkeypatch.setenv("PARETOPIPE_CACHE_GB", said)
    with pytest.raises(ConfigError, match="PARETOPIPE_CACHE_GB: expected a number of GB"):
        limit_bytes(cache)


def test_without_a_limit_a_small_disk_is_not_filled(cache, monkeypatch):
    monkeypatch.delenv("PARETOPIPE_CACHE_GB")
    assert 0 < limit_bytes(cache / "not there yet") <= 10e9


def test_the_command_shows_the_cache_and_empties_it_after_saying_what_that_frees(cache, capsys, other):
    kept, free = keep(cache, "a", 400, 1), keep(cache, "b", 500, 2)
    (weights_dir(cache) / ".tmpx").write_bytes(bytes(100))
    other(HOLD, kept)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "bbbbbbbbbbbb" in shown
    assert ", now" in shown
    assert "half written: 1 files" in shown
    assert "2 files, 0.0 MB of at most 0.0 MB" in shown
    assert main(["empty"]) == 1
    assert "would free 0.0 MB" in (said := capsys.readouterr().out)
    assert "nothing is removed: add --yes" in said
    assert free.exists()
    assert main(["empty", "--yes"]) == 0
    assert "1 files are in use" in capsys.readouterr().out
    assert list(weights_dir(cache).iterdir()) == [kept]


def test_the_command_on_an_empty_cache_frees_nothing(cache, capsys):
    assert main(["empty", "--yes"]) == 0
    assert "would free 0.0 MB" in capsys.readouterr().out
    assert not weights_dir(cache).exists()


def test_what_draws_the_charts_of_reports_is_shown_and_emptied_too(cache, capsys):
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "vega-6.1-1.9.js").write_bytes(bytes(900_000))
    assert main(["empty", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "what draws charts, beside them: 0.9 MB" in said
    assert "would free 0.9 MB" in said and "freed 0.9 MB" in said
    assert not list(cache.glob("vega-*"))
