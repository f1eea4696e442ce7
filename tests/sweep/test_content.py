"""A resumed run never mixes two networks, sets of images or machines, whatever their names are."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.errors import OutputError
from pplib.model.partition import PartitionedModel
from pplib.records import read_record, trial_path, write_record
from pplib.sweep.claim import claim_folder, hardware, known_content
from pplib.sweep.experiment import prepare
from pplib.sweep.job.grid_run import _look_at_devices
from pplib.sweep.measuring.run import run_missing
from pplib.sweep.measuring.schedule import Trial
from pplib.sweep.measuring.trial import run_trial
from tests.helpers.models import tiny as tiny_model

WHAT_TO_DO = "choose another `name`, or delete the folder"


@pytest.fixture
def measured(tiny, tmp_path, monkeypatch):
    """A configuration of a model, weights and images of the user's own, that was measured (one record, made up)."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "mine", None)
    sys.modules.pop("mine")
    (tmp_path / "mine.py").write_text("from tests.helpers.models import tiny  # noqa\n\nSCALE = 1\n")
    weights = prepare(configuration(tiny), progress=False).weights
    (tmp_path / "best.safetensors").write_bytes(weights.path.read_bytes())
    values = {"model": "mine:tiny", "weights": str(tmp_path / "best.safetensors"), "partition_points": [2]}
    experiment = prepare(configuration({**tiny, **values}), progress=False)
    yield experiment
    sys.modules.pop("mine", None)


def claim(experiment, **content):
    claim_folder(experiment.config, experiment.testbed, {**experiment.content, **content})


@pytest.fixture
def with_trial(measured):
    """As `measured`, with a trial."""
    claim(measured)
    path = trial_path(measured.config.folder, (2,), 0)
    path.parent.mkdir()
    path.write_text("{}")
    return measured


def test_what_has_not_changed_is_continued_and_comments_are_no_change(with_trial, tmp_path):
    claim(with_trial)
    (tmp_path / "mine.py").write_text("# A comment.\nfrom tests.helpers.models import tiny\nSCALE = 1\n")
    claim(with_trial)


def test_other_weights_in_the_same_file_are_refused_before_anything_is_loaded(with_trial, tmp_path):
    path = tmp_path / "best.safetensors"
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(OutputError, match=rf"\(weights file: .* there, .* here\): {WHAT_TO_DO}"):
        claim_folder(with_trial.config, with_trial.testbed)


def test_other_code_of_the_model_is_refused(with_trial, tmp_path):
    (tmp_path / "mine.py").write_text("from tests.helpers.models import tiny\nSCALE = 2\n")
    with pytest.raises(OutputError, match=rf"\(model code: .* there, .* here\): {WHAT_TO_DO}"):
        claim_folder(with_trial.config, with_trial.testbed)


def test_other_images_under_the_same_name_are_refused(with_trial):
    other = dataclasses.replace(with_trial, batches=[batch + 1 for batch in with_trial.batches])
    with pytest.raises(OutputError, match=r"\(images: .* there, .* here\)"):
        claim(other)


@pytest.mark.parametrize("change", ["another picture", "another name"])
def test_another_folder_of_pictures_under_the_same_name_is_another_content_before_any_is_read(tmp_path, change):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    config = configuration({"dataset": f"folder:{tmp_path}", "num_images": 2, "batch_size": 1})
    before = known_content(config)
    assert known_content(config) == before
    if change == "another name":
        (tmp_path / "b.png").rename(tmp_path / "c.png")
    else:
        Image.new("RGB", (400, 4)).save(tmp_path / "b.png")
    assert known_content(config)["image files"] != before["image files"]


def test_pictures_that_are_gone_do_not_keep_finished_results_from_being_shown(tmp_path):
    config = configuration({"dataset": f"folder:{tmp_path / 'gone'}", "num_images": 2, "batch_size": 1})
    assert "image files" not in known_content(config)


def built_otherwise():
    model = tiny_model().eval()
    model[1].forward = lambda x: x.relu().mul(0.5)  # says the same of itself
    return model


def test_a_model_that_is_built_otherwise_is_refused(with_trial):
    other = dataclasses.replace(with_trial, partitioned=PartitionedModel(built_otherwise(), with_trial.batches[0]))
    with pytest.raises(OutputError, match=r"\(model: .* there, .* here\)"):
        claim(other)


def test_devices_that_became_others_are_refused_and_a_little_memory_is_no_other_device(with_trial):
    host = {"cpu": "A72", "machine": "aarch64", "memory_bytes": 4.0e9, "torch": "2.9.1", "cores": "0"}
    claim(with_trial, **hardware([host], ["pi"]))
    claim(with_trial, **hardware([{**host, "memory_bytes": 3.95e9, "cores": "1"}], ["pi"]))
    for change, said in [
        ({"cpu": "A76"}, "device pi: cpu: 'A72' there, 'A76' here"),
        ({"memory_bytes": 8.0e9}, r"device pi: memory_bytes: \S+ there, 8000000000.0 here"),
        ({"torch": "2.10.0"}, r"device pi: torch: '2\.9\.1' there, '2\.10\.0' here"),
    ]:
        with pytest.raises(OutputError, match=rf"\({said}\)"):
            claim(with_trial, **hardware([{**host, **change}], ["pi"]))


def test_a_folder_from_before_a_parameter_goes_on_as_what_was_then_the_only_way(tiny):
    config = configuration(tiny)
    testbed = load_testbed(config.devices_file)
    claim_folder(config, testbed)
    path = config.folder / "configuration.json"
    older = msgspec.json.decode(path.read_bytes())
    for name in ("runtime", "precision", "wire"):
        del older[name]
    path.write_bytes(msgspec.json.encode(older))
    claim_folder(config, testbed)
    other = msgspec.structs.replace(config, wire="int8", name="other")
    other.folder.mkdir(parents=True)
    (other.folder / "configuration.json").write_bytes(msgspec.json.encode(older))
    with pytest.raises(OutputError, match=r"wire: 'float32' there, 'int8' here"):
        claim_folder(other, testbed)


def test_devices_that_became_others_are_told_as_soon_as_they_answer_and_other_configurations_go_on(with_trial):
    """The session is made up; what it says of the devices is what a real one says."""
    host = {"cpu": "A72", "machine": "aarch64", "memory_bytes": 4.0e9, "torch": "2.9.1"}
    claim(with_trial, **hardware([host], ["pi"]))
    told = SimpleNamespace(name="pi", host={**host, "cpu": "A76"}, runtimes=["eager"], unfit={})
    worker = SimpleNamespace(description=told)
    coordinator = SimpleNamespace(workers=[worker, worker])
    session = SimpleNamespace(pipeline=lambda count: contextlib.nullcontext(coordinator))
    new = msgspec.structs.replace(with_trial.config, name="another")
    refused = []
    _look_at_devices(session, [with_trial.config, new], with_trial.testbed, lambda *one: refused.append(one))
    assert [config for config, _ in refused] == [with_trial.config]
    assert "device pi: cpu: 'A72' there, 'A76' here" in str(refused[0][1])


def test_which_entry_of_a_file_of_weights_was_taken_is_in_the_record(tiny, tmp_path):
    """The coordinator is made up, and not asked: a trial whose link is wrong is not run, but has its record."""
    state = load_file(prepare(configuration(tiny), progress=False).weights.path)
    torch.save({"model_ema": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    values = {**tiny, "weights": str(tmp_path / "w.pth"), "partition_points": [2]}
    experiment = prepare(configuration(values), progress=False)
    described = SimpleNamespace(host={}, runtimes={}, unfit={})
    workers = [SimpleNamespace(description=described)] * experiment.config.num_stages
    coordinator = SimpleNamespace(workers=workers, failed_run=None)
    record, error = run_trial(experiment, coordinator, Trial((2,), 0, 0), None, "the link is down")
    assert str(error) == "the link is down"
    assert record.environment["weights_taken"] == "entry `model_ema`, prefix `module.` taken off"


def test_without_any_trial_the_folder_takes_what_comes(measured, tmp_path):
    claim(measured)
    (tmp_path / "mine.py").write_text("from tests.helpers.models import tiny\nSCALE = 3\n")
    claim(measured)


@pytest.mark.alone
def test_a_run_that_goes_on_with_other_weights_measures_nothing_and_older_folders_know_theirs_too(
    tiny, tmp_path, shared_workers
):
    weights = prepare(configuration(tiny), progress=False).weights
    mine = tmp_path / "best.safetensors"
    mine.write_bytes(weights.path.read_bytes())
    config = configuration({**tiny, "weights": str(mine), "partition_points": [2], "repeats": 1})
    run_missing(prepare(config, progress=False), progress=False)
    noted = msgspec.json.decode((config.folder / "configuration.json").read_bytes())
    assert {"weights", "images", "model", "weights file", "torch", "device device-0", "device device-1"} <= set(
        noted["content"]
    )
    save_file({name: value + 1 for name, value in load_file(mine).items()}, mine)
    more = configuration({**config.as_dict(), "repeats": 2})
    with pytest.raises(OutputError, match=WHAT_TO_DO):
        run_missing(prepare(more, progress=False), progress=False)
    del noted["content"]  # as folders were before
    Path(config.folder / "configuration.json").write_bytes(msgspec.json.encode(noted))
    with pytest.raises(OutputError, match=r"\(weights: .* there, .* here\)"):
        run_missing(prepare(more, progress=False), progress=False)
    path = trial_path(config.folder, (2,), 0)
    record = read_record(path)
    record.devices[0]["cpu"] = "another"
    write_record(path, record)
    mine.write_bytes(weights.path.read_bytes())
    with pytest.raises(OutputError, match=r"\(device device-0: cpu: 'another' there, "):
        run_missing(prepare(more, progress=False), progress=False)
    assert not trial_path(config.folder, (2,), 1).exists()
