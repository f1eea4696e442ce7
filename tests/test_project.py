"""The project's own promises: files in step, rooms that import only from above, notebooks as agreed."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement

from pplib.columns import COLUMNS, page
from pplib.config import PARAMETERS
from pplib.devices import load_testbed
from pplib.grid import load_grid
from pplib.runtimes import NAMES, runtime
from pplib.testbed.provision.torch_builds import ARM64_CPU

ROOT = Path(__file__).resolve().parents[1]
GRIDS = sorted(path for path in (ROOT / "params").glob("*.yaml") if path.stem != "links")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What may import what: a room only from itself and from the rooms named, and within a room a folder only from itself
# and from the folders before it. The vocabulary is what stands directly in pplib/, and its folders, whose command
# lines alone reach the devices.
ROOMS = {
    "": (set(), []),
    "model": ({""}, ["tracing", "stages", "weights", "", "exported"]),
    "pipeline": ({"", "model"}, ["process", "monitor", "wire", "hops", "stage", "worker", "coordinator"]),
    "analysis": ({""}, ["", "trials", "estimated"]),
    "planner": ({"", "analysis"}, ["profiles", "search", "", "changes"]),
    "testbed": (
        {"", "pipeline"},
        ["ssh", "shipping", "shaping", "emulation", "provision", "workers", ""],
    ),
    "view": ({"", "analysis", "planner"}, ["layout", "words", "charts", "", "planned", "sections"]),
    "sweep": (
        {"", "model", "pipeline", "testbed", "analysis", "planner", "view"},
        ["", "planning", "measuring", "job"],
    ),
    "compare": ({"", "analysis", "view", "sweep"}, [""]),
}
COMMAND_LINES = {"devices/__main__.py": {"testbed"}, "cache/devices.py": {"testbed"}, "sweep/__main__.py": {"job"}}


def requirement_lines(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def test_the_three_requirement_files_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == set(project)
    assert set(requirement_lines(ROOT / "requirements-pi.txt")) <= set(project)


def test_a_device_without_pytorch_gets_what_every_worker_needs_and_its_runtime_as_the_project_declares_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for_all = set(requirement_lines(ROOT / "requirements-pi.txt"))
    for name in NAMES:
        lines = set(requirement_lines(ROOT / runtime(name).REQUIREMENTS))
        extra = project["optional-dependencies"].get(name, [])
        package = {line for line in extra if line.startswith(name) or not line.startswith("onnx")}
        assert lines - for_all == package
        assert {re.split(r"[><=~]", line)[0] for line in for_all - lines} <= {*OF_PYTORCH}


def test_an_environment_of_several_runtimes_can_be_locked():
    """What their lock files share is the same in all."""
    locked = dict[tuple[str, str], set[str]]()
    for path in (ROOT / "locks").glob("requirements-*-any.txt"):
        for name, version, marker in re.findall(r"^([a-z0-9.-]+)==([\w.]+)([^\\\n]*)", path.read_text(), re.MULTILINE):
            locked.setdefault((name, marker.strip()), set()).add(version)
    assert {name for name, _ in locked} >= {"psutil", "onnxruntime", "openvino", "torch"}
    assert [one for one, versions in locked.items() if len(versions) > 1] == []


def test_what_is_imported_is_declared_with_a_lowest_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert [line for line in lines if ">=" not in line] == []
    runtimes = list(itertools.chain(*(project["optional-dependencies"].get(name, []) for name in NAMES)))
    assert set(runtimes) - set(lines) == {line for line in runtimes if line.startswith("torch")}, "they are tested, too"
    declared = [re.split(r"[><=~]", line)[0] for line in [*project["dependencies"], *runtimes]]
    names = {MODULES.get(name, name.replace("-", "_")) for name in declared} | {"pplib", "torchao"}  # executorch's
    paths = [*(ROOT / "pplib").rglob("*.py"), *(ROOT / "workers").glob("*.py")]
    found = {name.partition(".")[0]: path.name for path in paths for name in imported(path)}
    assert {top: path for top, path in found.items() if top not in names | STANDARD} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "locks").glob("*.txt")), ids=lambda p: p.stem)
def test_a_lock_file_has_all_that_is_declared_with_hashes_and_names_no_index(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = path.read_text().replace("\\\n", " ")
    assert "://" not in text and "--index" not in text
    locked = dict[str, list[str]]()
    for line in text.splitlines():
        assert re.search(r" --hash=sha256:[0-9a-f]{64}", line), line
        name, version = re.match(r"([a-z0-9.-]+)==([\w.]+)", line).groups()
        locked.setdefault(name, []).append(version)
    everything = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    of_a_device = ROOT / f"{re.sub('-(any|arm64-cpu)$', '', path.stem)}.txt"
    for line in requirement_lines(of_a_device) if of_a_device.is_file() else everything:
        wanted = Requirement(line)
        versions = locked[wanted.name.lower()]
        assert all(wanted.specifier.contains(version) for version in versions), (line, versions)
    if path.stem.endswith("arm64-cpu"):
        assert {f"{name}=={locked[name][0]}" for name in ("torch", "torchvision")} == set(ARM64_CPU.constraints)


def test_a_worker_needs_nothing_beyond_the_requirements_of_a_device():
    """But for what runs a stage, and what makes graphs on the machine that starts a sweep."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    makers = [*extras["onnxruntime"], *extras["executorch"], "torchao"]
    allowed = {re.split(r"[><=~]", line)[0] for line in [*requirement_lines(ROOT / "requirements-pi.txt"), *makers]}
    names = {MODULES.get(name, name) for name in allowed} | {"pplib"}
    for room in ("model", "pipeline"):
        for path in (ROOT / "pplib" / room).rglob("*.py"):
            for name in imported(path):
                top = name.partition(".")[0]
                assert top in names or top in STANDARD, f"{path.name} imports {name}"


OF_PYTORCH = ("torch", "torchvision", "safetensors", "pillow")
MODULES = {
    "pyyaml": "yaml",
    "pillow": "PIL",
    "ipython": "IPython",
    "python-dotenv": "dotenv",
    "nvidia-ml-py": "pynvml",
    "vl-convert-python": "vl_convert",
}
STANDARD = set(__import__("sys").stdlib_module_names)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def place_of(parts):
    """The room and the folder in it of a module of pplib, by the parts of its path or of its dotted name."""
    folders = [part for i, part in enumerate(parts) if (ROOT / "pplib" / Path(*parts[: i + 1])).is_dir()]
    if folders and folders[0] not in ROOMS:
        return "", folders[0]
    return (folders[0] if folders else ""), (folders[1] if len(folders) > 1 else "")


@pytest.mark.parametrize("path", sorted((ROOT / "pplib").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_the_rooms_above_it_and_from_the_folders_before_it(path):
    here = path.relative_to(ROOT / "pplib")
    room, folder = place_of(here.parent.parts)
    rooms, folders = ROOMS[room]
    more = COMMAND_LINES.get(str(here), set())
    for name in imported(path):
        if name.partition(".")[0] == "pplib" and name != "pplib":
            other, its = place_of(name.split(".")[1:])
            near = other == room and (not folders or folders.index(its) <= folders.index(folder))
            assert near or (other != room and other in rooms) or {other, its} & more, f"{here} imports {name}"


def test_no_folder_of_the_library_holds_more_than_a_person_sees_at_once():
    for folder in {path.parent for path in (ROOT / "pplib").rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= 12, folder


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


PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "notebooks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_the_documentation_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_every_column_that_is_measured_has_its_method():
    rows = [line for line in (ROOT / "METHODS.md").read_text().splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(told) == len(set(told)), "a column has one method"
    assert set(told) == {one.name for one in COLUMNS} - set(PARAMETERS)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert all(all(row) for row in cells), "nothing is left empty: - where there is nothing to tell"


def test_the_page_of_columns_is_what_the_list_of_columns_says():
    assert (ROOT / "docs" / "columns.md").read_text() == page(), "python -m pplib.columns > docs/columns.md"
    names = [one.name for one in COLUMNS]
    assert len(set(names)) == len(names)


def test_the_readme_leads_to_every_page_and_its_two_commands_are_sweep_and_test():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in readme
    commands = readme.split("## Two commands")[1].split("```")[1]
    assert re.findall(r"^make \w+", commands, re.M) == ["make sweep", "make test"]
    assert readme.index("## Five words") < readme.index("## Two commands")
    assert "```bibtex" in readme


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_needs_is_where_it_looks_for_it(path):
    importlib.import_module(f"benchmarks.{path.stem}")
