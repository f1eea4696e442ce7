"""YAML that is made to hurt: one error that names the file, soon, and little memory."""

from __future__ import annotations

import os
import tracemalloc
from itertools import pairwise

import pytest

from pplib.config import configuration
from pplib.errors import ConfigError
from pplib.files.yaml_file import read_yaml
from pplib.grid import MOST_CONFIGURATIONS, load_grid
from pplib.links import load_links


def nine_lines(first, opened, closed):
    """Each line holds the one before nine times."""
    lines = [f"{new}: &{new} {opened}{', '.join([f'*{old}'] * 9)}{closed}" for old, new in pairwise("abcdefghi")]
    return "\n".join([f"a: &a {first}", *lines])


BOMBS = {
    "aliases": (nine_lines("[x]", "[", "]"), "at most 20000 keys and values on 16 levels, aliases spelt out"),
    "merges": (nine_lines("{x: 1}", "{<<: [", "]}"), "at most 20000 keys and values on 16 levels, aliases spelt out"),
    "a list in itself": ("name: &a [*a]\n", "a list or mapping holds itself"),
    "a mapping in itself": ("name: &a {x: *a}\n", "a list or mapping holds itself"),
    "deep lists": ("name: " + "[" * 100_000, "at most 20000 keys and values on 16 levels"),
    "deep mappings": ("name: " + "{a: " * 5_000, "at most 20000 keys and values on 16 levels"),
    "deep lines": ("\n".join("  " * i + "a:" for i in range(500)), "at most 20000 keys and values on 16 levels"),
    "depth by aliases": (
        "x0: &x0 [1]\n" + "".join(f"x{i + 1}: &x{i + 1} [*x{i}]\n" for i in range(300)),
        "on 16 levels, aliases spelt out",
    ),
    "many values": (f"partition_points: [{'1,' * 30_000}]", "at most 20000 keys and values"),
    "a large file": ("# " + "x" * 1_000_000, "cannot be read: expected at most 1000000 bytes, got 1000002"),
    "digits": ("seed: " + "9" * 6000, "a number of at most 64 bits, got one of 6000 digits"),
    "hexadecimal digits": ("seed: 0x" + "f" * 6000, "a number of at most 64 bits, got one of 6002 digits"),
    "minutes and seconds": ("seed: !!int " + ":".join(["1"] * 3000), "a number of at most 64 bits"),
    "no number": ("name: !!int abc", "not valid YAML: invalid literal for int"),
    "no list of pairs": ("!!map [1]", "expected a mapping"),
    "a class": ("name: !!python/object/apply:os.getcwd []", "expected no tag, or one of str, int, "),
    "binary": ("name: !!binary '@@'", "expected no tag, or one of str, int, "),
    "a date that is none": ("name: !!timestamp abc", "expected no tag, or one of str, int, "),
    "a list as a key": ("? [a]\n: 1\n", "found unhashable key"),
    "two documents": ("name: a\n---\nname: b\n", "expected a single document"),
    "half a character": ('name: "\\ud800"', "name: expected text without control characters"),
    "no number at all": ("max_trial_s: .nan", "max_trial_s: expected a finite number, got nan"),
    "a product": (
        "".join(f"{key}: {list(range(1, 101))}\n" for key in ("seed", "batch_size", "in_flight", "num_classes")),
        f"expected lists that make at most {MOST_CONFIGURATIONS} configurations, got 100000000",
    ),
    "a long path": ("weights: " + "x" * 300, "weights: expected at most 4095 bytes, and 255 between slashes"),
    "a long value": ("batch_size: " + "x" * 5000, r"batch_size: expected `int`, got 'x{199}\.\.\.$"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_one_error_that_names_the_file_and_takes_no_memory(tmp_path, kind):
    text, told = BOMBS[kind]
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=f"^{path}: (?s:.*){told}"):
            load_grid(path)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_anchors_and_merges_that_people_write_are_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "slow: &slow {delay_s: 0.1}\nbase: &b {<<: *slow, rate_bit_s: 1.0e+6}\nlossy: {<<: *b, loss: 0.1}\n"
    )
    found = load_links(path)["lossy"]
    assert (found.forward.delay_s, found.forward.rate_bit_s, found.forward.loss) == (0.1, 1e6, 0.1)


def test_a_date_is_text(tmp_path):
    (tmp_path / "x.yaml").write_text("name: 2026-11-25\nother: 2026-13-45\nequal: =\n")
    assert read_yaml(tmp_path / "x.yaml") == {"name": "2026-11-25", "other": "2026-13-45", "equal": "="}
    assert configuration({"name": "2026-11-25"}).name == "2026-11-25"


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "grid.yaml")
    with pytest.raises(ConfigError, match=r"grid\.yaml: cannot be read: expected an ordinary file, got prw"):
        load_grid(tmp_path / "grid.yaml")
    with pytest.raises(ConfigError, match="cannot be read: expected an ordinary file, got d"):
        load_grid(tmp_path)
