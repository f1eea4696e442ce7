"""`keep: summary` takes what its own grid wrote, and nothing else, wherever its folder is."""

from __future__ import annotations

import msgspec
import nbformat
import pytest

from pplib.config import configuration
from pplib.records import StageTimeline, TrialRecord, read_record, trial_path, write_record
from pplib.sweep.results import drop_details


def a_record(config):
    timeline = StageTimeline(
        stage_index=0,
        device="a",
        ready_s=[0.0],
        received_s=[0.0],
        compute_start_s=[0.0],
        compute_end_s=[1.0],
        copy_s=[0.0],
        send_start_s=[1.0],
    )
    return TrialRecord(
        configuration=config.as_dict(),
        partition_points=[2],
        partition_name="x",
        repeat=0,
        order=0,
        status="ok",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        warmup=0,
        cooldown=0,
        timelines=[timeline],
        returned_s=[1.0],
    )


def results_of(config):
    """What a run of a configuration leaves: a record, the executed copy, and JupyterLab's copy of that."""
    record = trial_path(config.folder, (2,), 0)
    write_record(record, a_record(config))
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"parameters": config.as_dict()}})
    copies = [config.folder / "sweep.ipynb", config.folder / ".ipynb_checkpoints" / "sweep-checkpoint.ipynb"]
    copies[1].parent.mkdir()
    for path in copies:
        nbformat.write(notebook, path)
    return record, copies


@pytest.fixture
def checkout(tmp_path):
    """A folder with sources in it, for whose name a careless grid can ask."""
    notebooks = tmp_path / "checkout" / "notebooks"
    notebooks.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), notebooks / "sweep.ipynb")
    return tmp_path / "checkout"


def test_timelines_and_executed_copies_of_the_grid_go(tmp_path):
    config = configuration({"output_dir": str(tmp_path)})
    record, copies = results_of(config)
    drop_details([config])
    assert read_record(record).timelines == []
    assert not any(path.exists() for path in copies)
    assert not copies[1].parent.exists()


def test_a_grid_whose_results_are_the_checkout_leaves_its_notebooks(checkout):
    config = configuration({"output_dir": str(checkout / ".."), "name": checkout.name})
    assert config.results.resolve() == checkout.resolve()
    results_of(config)
    drop_details([config])
    assert (checkout / "notebooks" / "sweep.ipynb").exists()


def test_other_configurations_of_the_same_name_keep_their_timelines(tmp_path):
    ours = configuration({"output_dir": str(tmp_path)})
    others = [configuration({"output_dir": str(tmp_path), **more}) for more in ({"backend": "rpc"}, {"in_flight": 2})]
    kept = [results_of(config) for config in others]
    results_of(ours)
    drop_details([ours])
    for record, copies in kept:
        assert read_record(record).timelines
        assert all(path.exists() for path in copies)


def test_what_others_put_into_the_grids_own_folder_stays(tmp_path):
    config = configuration({"output_dir": str(tmp_path)})
    results_of(config)
    strange = a_record(msgspec.structs.replace(config, seed=7))
    write_record(trial_path(config.folder, (3,), 0), strange)
    nbformat.write(nbformat.v4.new_notebook(), config.folder / "sweep.ipynb")
    (config.folder / ".ipynb_checkpoints" / "mine.ipynb").write_text("mine")
    drop_details([config])
    assert read_record(trial_path(config.folder, (3,), 0)).timelines
    assert (config.folder / "sweep.ipynb").exists()
    assert (config.folder / ".ipynb_checkpoints" / "mine.ipynb").exists()
