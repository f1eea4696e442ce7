"""What others get: cells that are no formulas, and no paths of this machine."""

from __future__ import annotations

import json
import tempfile
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplib.files.csv_text import read_csv, to_csv
from pplib.files.own_paths import shown_values, without_own_paths

ROOT, HOME = Path(__file__).resolve().parents[2], Path.home()
CELLS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''x",
    "'",
    "a=b",
    "a,b",
    'a"b',
    "a\r\nb",
    "=\u00fc",
]


def test_a_cell_or_a_head_that_begins_as_a_formula_is_text_in_a_spreadsheet_and_reads_back(tmp_path):
    frame = pd.DataFrame({"error": CELLS, "=2*3": 1.5, "number": -3})
    (tmp_path / "x.csv").write_bytes(to_csv(frame).encode())
    raw = pd.read_csv(tmp_path / "x.csv")
    for cell in [*raw.columns, *raw["error"]]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), cell
    assert raw["number"].tolist() == [-3] * len(CELLS), "a number stays one"
    again = read_csv(tmp_path / "x.csv")
    assert again["error"].tolist() == CELLS
    assert list(again.columns) == list(frame.columns)


@given(st.lists(st.text(alphabet="=+-@'\t\r\n ,\"a", max_size=9).map(lambda text: f"{text}b"), min_size=1, max_size=4))
def test_any_text_reads_back(cells):
    assert read_csv(StringIO(to_csv(pd.DataFrame({"a": cells}))))["a"].tolist() == cells


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{ROOT}/outputs/x.csv: no", "outputs/x.csv: no"),
        (f"in {ROOT}, there", "in ., there"),
        (f"'{ROOT}'", "'.'"),
        (f"{HOME}/best.pth", "~/best.pth"),
        (f"folder:{HOME}", "folder:~"),
        (f"\x1b[32m{HOME}/a.py\x1b[0m", "\x1b[32m~/a.py\x1b[0m"),
        (f"{HOME}2/x a{HOME}/x", f"{HOME}2/x a{HOME}/x"),
        (f"{tempfile.gettempdir()}/x", "$TMPDIR/x"),
        ("/data/9f2/out/tiny/x /data/9f2/outer", "out/tiny/x /data/9f2/outer"),
    ],
)
def test_paths_of_this_machine_are_told_as_they_are_meant_elsewhere(text, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert without_own_paths(text, "/data/9f2/out") == shown
    told = without_own_paths(json.dumps({"a": [f"first\n{text}"]}), "/data/9f2/out")
    assert json.loads(told)["a"] == [f"first\n{shown}"], "also inside JSON"
    assert without_own_paths(shown, "/data/9f2/out") == shown


def test_the_present_folder_is_nothing_to_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_values({"weights": f"{tmp_path}/a.pth", "n": 1}) == {"weights": "a.pth", "n": 1}
