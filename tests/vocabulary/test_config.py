"""Parameters and grids: what is right is kept, what is wrong is named with its path."""

from __future__ import annotations

import pytest

from pplib.config import Configuration, configuration, project_path
from pplib.errors import ConfigError
from pplib.grid import load_grid


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": "four"}, r"^batch_size: expected `int`, got 'four'$"),
        ({"batchsize": 4}, r"^batchsize: unknown key; nearest: batch_size"),
        ({"batch_size": 0}, r"^batch_size: expected `int` >= 1, got 0$"),
        ({"backend": "tcp"}, r"^backend: expected one of gloo, rpc, socket, got 'tcp'$"),
        ({"partition_points": "most"}, r"^partition_points: expected one of all, auto, even, plan, a list of integers"),
        ({"partition_points": [1, "x"]}, r"^partition_points\[1\]: .*got 'x'$"),
        ({"num_images": 10}, r"^num_images: expected a multiple of batch_size=8 .*got 10: try 16 or 24$"),
        ({"num_images": 8}, r"^num_images: .*at least 2 microbatches"),
        ({"num_stages": 1}, r"^num_stages: expected `int` >= 2, got 1$"),
        ({"min_agreement": 1.01}, r"^min_agreement: expected `float` <= 1.0, got 1.01$"),
        ({"min_agreement": "most"}, r"^min_agreement: expected `float`, got 'most'$"),
        ({"optimize": 1}, r"^optimize: expected `bool`, got 1$"),
        ({"link": "wifi"}, r"^link: 'wifi' is not in .*links\.yaml; nearest: wifi-poor, wifi-good"),
        ({"in_flight": [1, 2]}, r"^in_flight: expected one value, got the list \[1, 2\]: lists make a grid"),
        ({"name": "a/b"}, r"^name: expected a plain folder name, got 'a/b': '/' cannot be in one$"),
        ({"name": ".."}, r"^name: expected a plain folder name, got '\.\.'$"),
        ({"model": "../../x"}, r"^model: expected a plain folder name, got '\.\./\.\./x': '/' cannot be in one$"),
        ({"name": "a\tb"}, r"^name: expected text without control characters, got '\\t' in 'a\\tb'$"),
        ({"output_dir": "a\0b"}, r"^output_dir: expected text without control characters"),
        ({"weights": "\ud800.pth"}, r"^weights: expected text without control characters"),
        ({"variant": "../x"}, r"^variant: expected a plain folder name"),
        ({"seed": 10**6000}, r"^seed: expected a number of at most 64 bits, got one of 19932 bits$"),
        ({"max_trial_s": float("inf")}, r"^max_trial_s: expected a finite number, got inf$"),
        ({"name": "x" * 300}, r"^name: expected a folder name of at most 255 bytes, got 300: 'x{40}'\.\.\.$"),
        ({"model": "a:" + "x" * 300}, r"^the folder that model, link and variant name: .* at most 255 bytes, got 3"),
        ({"partition_points": []}, r"^partition_points: expected .* at least one point, got an empty list$"),
        ({"partition_points": [[1, 3], [1, 3]]}, r"^partition_points: \[1, 3\] stands twice in the list"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected_and_what_came(values, message):
    with pytest.raises(ConfigError, match=message):
        configuration(values)


def test_a_grid_expands_its_lists_and_nothing_else(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("backend: [socket, rpc]\nin_flight: [1, 2]\npartition_points: [0, 3]\nkeep: summary\n")
    loaded = load_grid(grid)
    assert loaded.keep == "summary"
    assert [(c.backend, c.in_flight) for c in loaded.configurations] == [
        ("socket", 1),
        ("socket", 2),
        ("rpc", 1),
        ("rpc", 2),
    ]
    assert all(c.partition_points == [0, 3] for c in loaded.configurations)
    assert len({c.identity for c in loaded.configurations}) == 4


@pytest.mark.parametrize("name", ["Büro 2", "実験", "Δ-run (new), 50 %", "\u0646\u200c\u0645", "a..b", "-x", "x" * 255])
def test_a_name_may_have_letters_of_any_script_and_spaces(tmp_path, name):
    config = configuration({"name": name, "output_dir": str(tmp_path)})
    assert config.results.parent == tmp_path
    config.folder.mkdir(parents=True)


UNSAFE = [
    "",
    " ",
    ".",
    "..",
    ".x",
    "x.",
    " x",
    "a/b",
    "../x",
    "a\\b",
    "a:b",
    "a*",
    "a\u202eb",
    "a\u2028b",
    "a\x7fb",
    "\ufeffa",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_is_one_component_of_a_path_that_can_be_seen(name):
    for key in ("name", "variant", *(["model"] if ":" not in name else [])):
        with pytest.raises(ConfigError, match=f"^{key}: expected "):
            configuration({key: name})


def folders(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    return [config.identity for config in load_grid(tmp_path / "grid.yaml").configurations]


BASE = "mobilenet_v2_block_k2_b8_socket_none_f1"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: 5\ndevices: params/devices/pi-pi.yaml\n", [""]),
        ("seed: [0, 1]\n", ["_seed0", "_seed1"]),
        ("num_classes: [null, 10]\n", ["_classesown", "_classes10"]),
        ("devices: [params/devices/pi-pi.yaml, params/devices/pi-gpu.yaml]\n", ["_pi-pi", "_pi-gpu"]),
        ("weights: [random, DEFAULT, my/best.pth]\n", ["_random", "_DEFAULT", "_best"]),
        ("dataset: [synthetic, 'folder:~/my photos/']\n", ["_synthetic", "_my-photos"]),
        ("optimize: [true, false]\nseed: [1, 2]\n", ["_seed1", "_seed2", "_plain_seed1", "_plain_seed2"]),
        ("num_images: [16, 32]\n", ["_images16", "_images32"]),
        ("partition_points: [even, auto]\n", ["_even", "_auto"]),
        ("variant: mine\nseed: [1, 2]\n", ["_mine_seed1", "_mine_seed2"]),
    ],
)
def test_a_grid_over_anything_has_folders_that_say_what_varies_and_others_keep_their_names(tmp_path, text, parts):
    assert folders(tmp_path, text) == [BASE + part for part in parts]


def test_files_of_the_same_name_have_folders_of_their_own_that_stay(tmp_path):
    both = folders(tmp_path, "weights: [a/best.pth, b/best.pth]\n")
    assert len(set(both)) == 2
    assert folders(tmp_path, "weights: [b/best.pth, a/best.pth, c.pth]\n")[:2] == both[::-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: []\n", "backend: expected at least one value, got an empty list"),
        ("name: [a, b]\n", "name: expected one value for the whole grid"),
        ("min_agreement: [0.5, 0.9]\n", "min_agreement: expected one value for the whole grid"),
        ("repeats: [1, 2]\n", "repeats: expected one value for the whole grid"),
        ("backend: [socket, rpc, socket]\n", "backend: 'socket' stands twice in the list: keep one"),
        ("partition_points: [2, 7, 2]\n", "partition_points: 2 stands twice in the list"),
        ("partition_points: []\n", "partition_points: expected .* at least one point, got an empty list"),
        ("seed: 1\nbackend: rpc\nseed: 2\n", "not valid YAML: seed: given twice, in lines 1 and 3: keep one of them"),
        ("# nothing\n", "expected `key: value` lines, got none: the file says nothing"),
        ("{}\n", "expected at least one parameter, got none: an empty grid"),
        ("keep: all\n", "an empty grid"),
        ("batch_size: four\n", r"grid.yaml: batch_size: expected `int`, got 'four'"),
        ("keep: some\n", "grid.yaml: keep: expected one of all, summary, got 'some'"),
        ("- 1\n", "expected `key: value` lines, got list"),
        ("a: [\n", r"not valid YAML: .*\n?.*"),
    ],
)
def test_a_wrong_grid_is_refused_with_its_file_and_key(tmp_path, text, message):
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_grid(grid)


def test_a_missing_grid_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_grid(tmp_path / "nowhere.yaml")


def test_relative_paths_count_from_the_checkout_when_a_notebook_runs_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_path("outputs") == tmp_path / "outputs"
    root = project_path(__file__).parents[2]
    monkeypatch.chdir(root / "notebooks")
    assert project_path("outputs") == root / "outputs"


def test_parameters_that_do_not_change_what_is_measured_do_not_separate_results():
    one = Configuration(name="a", repeats=3, partition_points=[1], min_agreement=0.9)
    other = Configuration(name="b", repeats=5)
    assert one.measured() == other.measured() != Configuration(seed=1).measured()
