"""Grids and device files as people write them: read as they mean it, or refused in one line that says what to do."""

from __future__ import annotations

import os

import pytest

from pplib.config import configuration, project_path
from pplib.devices import load_testbed
from pplib.errors import ConfigError
from pplib.files.yaml_file import read_yaml
from pplib.grid import MOST_CONFIGURATIONS, load_grid


@pytest.fixture
def path(tmp_path):
    return tmp_path / "grid.yaml"


def refused(load, path, text):
    """The one line, without the file's name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"\xef\xbb\xbfseed: 1\r\nname: x\r\n", {"seed": 1, "name": "x"}),
        ("a: 1e3\nb: 1e-3\nc: .5\nd: 1_000_000\ne: 0x40\nf: -3\ng: 1.5e+2\nh: 0", None),
        ("day: 2024-01-01\nbad: 2024-13-45", {"day": "2024-01-01", "bad": "2024-13-45"}),
        ("a: 010\nb: 1:30\nc: 00:11:22", {"a": "010", "b": "1:30", "c": "00:11:22"}),
        ("a: yes\nb: null\nc: ~\nd: 'no'\ne: .inf", {"a": True, "b": None, "c": None, "d": "no", "e": float("inf")}),
        ("---\na: &x [1, 2]\nb: *x\n...\n", {"a": [1, 2], "b": [1, 2]}),
    ],
)
def test_values_are_what_people_mean_by_them(path, text, read):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    meant = {"a": 1000.0, "b": 0.001, "c": 0.5, "d": 1_000_000, "e": 64, "f": -3, "g": 150.0, "h": 0}
    assert read_yaml(path) == (meant if read is None else read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1".encode("utf-16"), "expected text in UTF-8, got the byte 0xff in line 1: save it as UTF-8"),
        ("seed: 1\nname: café".encode("latin-1"), "expected text in UTF-8, got the byte 0xe9 in line 2"),
        ("name: x\n\tseed: 1\n", "not valid YAML: line 2, column 1: a tab: YAML is indented with spaces"),
        ("name:x\nseed:1\n", "got text: write a space after the colon of `name:`"),
        ("name: x\nseed:1\n", "write a space after the colon of `seed:`"),
        ("name: x\n seed: 1\n", "not valid YAML: line 2, column 6: mapping values are not allowed here"),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: expected a single document, got a second one after `---`"),
        ("a: *b\n", "line 1, column 4: found undefined alias 'b'"),
        ("seed: !!int x\n", "not valid YAML: invalid literal for int()"),
        ("1: x\n", "got the key 1: keys are words"),
        ("a: b\x01\n", "not valid YAML: unacceptable character #x0001"),
    ],
)
def test_what_is_no_yaml_is_said_in_one_line(path, text, said):
    assert said in refused(read_yaml, path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_images: '64'", "num_images: expected `int`, got '64': that is text: write the number without quotes"),
        ("num_images: 064", "num_images: expected `int`, got '064': write it without the 0 in front"),
        ("num_images: 1e3", "num_images: expected `int`, got 1000.0: write 1000"),
        ("num_images: 1,000", "num_images: expected `int`, got '1,000': write it without commas"),
        ("in_flight: 1, 2", "in_flight: expected `int`, got '1, 2': a list is written [1, 2]"),
        ("backend: socket,rpc", "one of gloo, rpc, socket, got 'socket,rpc': a list is written [socket, rpc]"),
        ("partition_points: 3, 5", "a list of integers, got '3, 5': a list is written [3, 5]"),
        ("partition_points: ['3', '5']", "got '3': that is text: write numbers without quotes"),
        ("max_trial_s: .inf", "max_trial_s: expected a finite number, got inf"),
        ("num_classes: None", "num_classes: expected `int | null`, got 'None': in YAML it is null"),
        ("link: null", "link: expected `str`, got None: leave the key out to have its default"),
        ("link: off", "link: expected `str`, got False: YAML reads yes, no, on, off, true and false so: put it in qu"),
        ("name: 2024", "name: expected `str`, got 2024: put it in quotes"),
        ("partition_points: 7", "a list of integers, got 7: write [7]"),
        ("partition_points: '7'", "got '7': that is text: write numbers without quotes"),
        ("partition_points: '[0, 7]'", "that is text: papermill takes lists by -y, as in -y 'partition_points: [0,"),
        ("in_flight: [[1, 2]]", "in_flight: expected a list of values, got a list in a list: [[1, 2]]"),
        ("seed: 99999999999999999999", "seed: expected a number of at most 64 bits"),
        ("model: models/mine.py", "got 'models/mine.py': the function `net` in models/mine.py is models.mine:net"),
        ("output_dir: $NO_SUCH_THING/x", "output_dir: expected a path, got '$NO_SUCH_THING/x': the variable $NO_SUCH"),
        ("weights: ~no-such-user/x.pth", "weights: expected a path, got '~no-such-user/x.pth': "),
        (
            f"seed: [{', '.join(map(str, range(MOST_CONFIGURATIONS + 1)))}]",
            "make at most 1000 configurations, got 1001",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(path, text, said):
    assert said in refused(load_grid, path, text)


def test_a_list_of_one_is_that_one_for_every_key(path):
    path.write_text("name: [x]\nkeep: [summary]\nrepeats: [2]\nin_flight: [2]\n")
    grid = load_grid(path)
    assert (grid.keep, len(grid.configurations), grid.configurations[0].repeats) == ("summary", 1, 2)


def test_the_home_and_variables_are_where_a_shell_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("~/my runs", "$HOME/my runs", "${HOME}/my runs"):
        assert project_path(text) == tmp_path / "my runs"
        assert configuration({"output_dir": text}).results == tmp_path / "my runs" / "default"
    assert os.sep not in configuration({"name": "naïve 模型"}).results.name


def device(words):
    return f"devices: [{{name: a, host: h1, data_port: 3000}}, {{name: b, {words}}}]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (device("host: pi@h"), "devices[1].host: expected a host name, an entry of ~/.ssh/config or an IPv4 address"),
        (device("host: 'fe80::1'"), "a device with IPv6 alone needs an entry of ~/.ssh/config"),
        (device("host: 192.168.1.300"), "devices[1].host: expected the IPv4 address of one machine, got '192.168.1.3"),
        (device("host: h, data_host: 0.0.0.0"), "devices[1].data_host: expected the IPv4 address of one machine"),
        (device("host: LocalHost"), "devices[1].data_host: expected the address by which the other devices reach"),
        (device("host: h, name: 'x y'").replace("name: b, ", ""), "devices[1].name: expected a name of at most 63"),
        (device("host: h, python: python3"), "devices[1].python: expected the path of an interpreter"),
        (device("host: h, interface: eth0 and more"), "devices[1].interface: expected the name of a network interf"),
        (device("host: h, user: 'DOM\\pi'"), "devices[1].user: expected the name of a user on the device"),
        (device("host: h, key: ~no-such-user/k"), "devices[1].key: expected a path, got '~no-such-user/k'"),
        (device("host: h, ssh_port: '22'"), "got '22': that is text: write the number without quotes"),
        (device("host: h, cores: 2"), "devices[1].cores: expected one of auto, a list of integers, got 2: write [2]"),
        (device("host: h, cores: []"), "devices[1].cores: expected"),
        (device("host: h, slowdown: .inf"), "devices[1].slowdown: expected a finite number, got inf"),
        (device("host: H1, data_port: 3000"), "devices[1].data_port: port 3000 of H1 is taken by devices[0]"),
    ],
)
def test_a_device_that_cannot_be_is_refused_before_anything_is_reached(path, text, said):
    assert said in refused(load_testbed, path, text)
