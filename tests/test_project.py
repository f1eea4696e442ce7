"""The project's own promises: files in step, rooms that import only from above, notebooks as agreed."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from pplib.config import PARAMETERS, load_grid
from pplib.devices import load_testbed

ROOT = Path(__file__).resolve().parents[1]
GRIDS = sorted(path for path in (ROOT / "params").glob("*.yaml") if path.stem != "links")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A room may import from those named; the vocabulary is everything directly in pplib/, and the
# package of device files, whose command line alone reaches the devices.
VOCABULARY = {"", "devices"}
COMMAND_LINES = {"devices/__main__.py": {"testbed"}}
ROOMS = {
    "": set(),
    "devices": {""},
    "model": {""},
    "runtime": {"", "model"},
    "testbed": {"", "runtime"},
    "analysis": {""},
    "view": {"", "analysis"},
    "sweep": {"", "model", "runtime", "testbed", "analysis", "view"},
}


def requirement_lines(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def test_the_three_requirement_files_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == set(project)
    assert set(requirement_lines(ROOT / "requirements-pi.txt")) <= set(project)


def test_a_worker_needs_nothing_beyond_the_requirements_of_a_device():
    allowed = {re.split(r"[><=~]", line)[0] for line in requirement_lines(ROOT / "requirements-pi.txt")}
    modules = {"pyyaml": "yaml"}
    names = {modules.get(name, name) for name in allowed} | {"pplib", "PIL"}  # PIL comes with torchvision
    for room in ("model", "runtime"):
        for path in (ROOT / "pplib" / room).glob("*.py"):
            for name in imported(path):
                top = name.partition(".")[0]
                assert top in names or top in STANDARD, f"{path.name} imports {name}"


STANDARD = set(__import__("sys").stdlib_module_names)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_rooms_above_it(room):
    for path in (ROOT / "pplib" / room).glob("*.py"):
        more = COMMAND_LINES.get(str(path.relative_to(ROOT / "pplib")), set())
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "pplib":
                continue
            other = parts[1] if len(parts) > 1 and (ROOT / "pplib" / parts[1]).is_dir() else ""
            other = "" if other in VOCABULARY else other
            assert other == room or other in ROOMS[room] | more, f"{path.relative_to(ROOT)} imports {name}"


def test_source_files_stay_small_and_say_what_they_are_for():
    for path in [*(ROOT / "pplib").rglob("*.py"), *(ROOT / "workers").glob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        assert ast.get_docstring(ast.parse(text)), path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_prose_short_cells_and_no_logic(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert book.cells[0].cell_type == "markdown"
    assert book.cells[0].source.startswith("# ")
    assert "You will learn" in book.cells[0].source
    assert "You need" in book.cells[0].source
    assert "What to do next" in book.cells[-1].source
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [code[0]], "one parameters cell, the first"
    for line in code[0].source.splitlines():
        if line.strip():
            assert re.match(r"^\w+: \w+ = .+  # .+$", line), line
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Try | ast.AsyncFunctionDef), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_sees_every_parameter_with_its_help(path):
    seen = papermill.inspect_notebook(str(path))
    source = nbformat.read(path, as_version=4)
    cell = next(c for c in source.cells if "parameters" in c.metadata.get("tags", []))
    assert set(seen) == {line.split(":")[0] for line in cell.source.splitlines() if line.strip()}
    assert all(one["help"] for one in seen.values())


def test_the_sweep_notebook_has_exactly_the_parameters_of_a_configuration():
    assert list(papermill.inspect_notebook(str(ROOT / "notebooks" / "sweep.ipynb"))) == list(PARAMETERS)


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_every_params_file_is_a_grid_whose_devices_exist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = load_grid(path)
    for config in grid.configurations:
        load_testbed(ROOT / config.devices).first(config.num_stages)
    assert path.read_text().startswith("#"), "commented"


@pytest.mark.parametrize("path", sorted((ROOT / "params" / "devices").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_device_file_loads(path):
    assert load_testbed(path).devices


def test_the_readme_has_a_row_for_every_switch_of_the_reference_implementation():
    readme = (ROOT / "README.md").read_text()
    switches = (
        "--model --batch-size --num-classes --dataset --num-test-samples --num-partitions --split-block --splits "
        "--runs --metrics-dir --models-dir --use-local-loading --shards-dir --use-intelligent-splitting "
        "--disable-intelligent-splitting --use-pipelining --num-threads --enable-prefetch --prefetch-batches "
        "--wait-time --cleanup MASTER_ADDR MASTER_PORT GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME CIFAR10_PATH"
    )
    for switch in switches.split():
        assert f"`{switch}`" in readme, switch
