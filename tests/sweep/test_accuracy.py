"""A trained network keeps its accuracy through the pipeline, and one that loses it there is found out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pplib.config import Configuration, configuration
from pplib.errors import OutputError, TrialError
from pplib.links import WIRES, wire_parts
from pplib.model.data import load_images
from pplib.model.weights.files import save_weights
from pplib.model.zoo import load_model
from pplib.pipeline.monitor.host import no_bfloat16
from pplib.pipeline.stage.tensors import array_of
from pplib.records import read_record, trial_path
from pplib.runtimes import NAMES, runtime
from pplib.sweep.claim import claim_folder
from pplib.sweep.experiment import prepare
from pplib.sweep.job import grid_run
from pplib.sweep.job.command import main
from pplib.sweep.measuring.run import run_missing
from pplib.sweep.results import read_summary
from tests.sweep.conftest import ROOT

NETWORK = """
import numpy as np
import torch
from torch import nn


def net(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(512, num_classes),
    )


net.input_shape = (1, 8, 8)
net.preprocessing = lambda image: torch.from_numpy(np.asarray(image, dtype=np.float32) / 240)[None]
"""
NUM_IMAGES = 160


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `digits_net.py`, its trained `digits.pth`, and unseen digits in `pictures/<digit>`."""
    from sklearn.datasets import load_digits  # loads SciPy: not in every process that collects tests

    folder, data = tmp_path_factory.mktemp("digits"), load_digits()
    pixels, labels = (data.images * 15).astype(np.uint8), data.target  # 0 to 240
    seen = np.arange(len(labels)) % 3 > 0
    for i in np.flatnonzero(~seen):
        path = folder / "pictures" / str(labels[i]) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    (folder / "digits_net.py").write_text(NETWORK)
    space = {}
    exec(NETWORK, space)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = space["net"]()
        inputs = torch.from_numpy(pixels[seen].astype(np.float32) / 240)[:, None]
        targets = torch.from_numpy(labels[seen])
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(3):
            for part in torch.randperm(len(inputs)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[part]), targets[part]).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    torch.save(model.state_dict(), folder / "digits.pth")
    return folder


@pytest.fixture
def digits(trained, tmp_path, monkeypatch):
    """Parameters of a sweep of the trained network over the digits that it has not seen."""
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(str(trained))
    return {
        "name": "digits",
        "model": "digits_net:net",
        "weights": "digits.pth",
        "dataset": "folder:pictures",
        "num_images": NUM_IMAGES,
        "batch_size": 8,
        "partition_points": [0, 1, 2, 4],
        "repeats": 1,
        "devices": str(ROOT / "params" / "devices" / "local.yaml"),
        "output_dir": str(tmp_path / "out"),
    }


def own_accuracy():
    """Of the whole model, by scikit-learn, and by what the pictures' folders are called."""
    from sklearn.metrics import accuracy_score

    model, images = (
        load_model("digits_net:net", "digits.pth"),
        load_images("folder:pictures", NUM_IMAGES, "digits_net:net"),
    )
    with torch.inference_mode():
        said = model(images).argmax(dim=1).numpy()
    return accuracy_score([i % 10 for i in range(NUM_IMAGES)], said)


@pytest.mark.timeout(600)
def test_a_trained_network_has_its_accuracy_at_every_cut_in_the_summary_in_words_and_in_the_report(
    digits, tmp_path, shared_workers, capsys
):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(digits))
    assert main([str(tmp_path / "grid.yaml")]) == 0
    known = own_accuracy()
    assert 0.9 < known < 1, "some are wrong: a figure that is always 1 proves nothing"
    summary = read_summary(tmp_path / "out" / "digits" / "summary.csv")
    assert len(summary) == 4 and set(summary["images_compared"]) == {NUM_IMAGES}
    assert summary["accuracy"].to_numpy() == pytest.approx(known)
    assert summary["reference_accuracy"].to_numpy() == pytest.approx(known)
    assert (summary["accuracy_top5"] > known).all() and set(summary["top1_agreement"]) == {1.0}
    assert summary["labels_sha256"].nunique() == 1 and (summary["cosine_similarity"] > 0.9999).all()
    words = f"accuracy {100 * known:.3g} % (float32 model {100 * known:.3g} %), {NUM_IMAGES} images"
    assert f"\n         {words}\n" in capsys.readouterr().out
    report = (tmp_path / "out" / "digits" / "report.html").read_text()
    assert f"digits_net:net: {words}." in report and '<th class="n">accuracy (%)</th>' in report


LESS = [
    *[(one, kind, "float32") for one in NAMES for kind in runtime(one).PRECISIONS if kind != "float32"],
    *[("eager", "float32", wire) for wire in WIRES if wire_parts(wire)[0] != "float32"],
    ("onnxruntime", "int8", "int8+zstd"),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("runs", "precision", "wire"), LESS)
def test_in_less_than_float32_a_trained_network_keeps_nearly_its_accuracy(
    digits, shared_workers, runs, precision, wire
):
    if precision == "bfloat16" and (why := no_bfloat16("cpu")):
        pytest.skip(why)
    values = {"runtime": runs, "precision": precision, "wire": wire, "partition_points": [2], "min_agreement": 0.95}
    row = run_missing(prepare(configuration({**digits, **values}), progress=False), progress=False).iloc[0]
    assert row["status"] == "ok" and row["top1_agreement"] >= 0.95 and row["cosine_similarity"] > 0.99
    assert row["max_abs_err"] > 1e-4, "less was computed, or sent"
    assert row["reference_accuracy"] == pytest.approx(own_accuracy())
    assert row["accuracy"] > row["reference_accuracy"] - 0.03


def rounded(experiment, bits):
    """The experiment whose devices compute with weights of so many bits; what they are compared with stays float32."""
    tensors = load_file(experiment.weights.path)
    model = load_model("digits_net:net", "digits.pth")
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            step = tensors[name].abs().max() / (2 ** (bits - 1) - 1)
            tensor.copy_((tensor / step).round() * step)
    return dataclasses.replace(experiment, weights=save_weights(model, constants=experiment.partitioned.constants))


@pytest.mark.timeout(600)
def test_devices_that_compute_in_less_are_judged_by_agreement_and_what_loses_accuracy_is_failed_with_the_figure(
    digits, shared_workers, monkeypatch
):
    monkeypatch.setattr(Configuration, "lossy", True)
    values = {**digits, "partition_points": [2], "min_agreement": 0.9}
    experiment = prepare(configuration({**values, "name": "eight"}), progress=False)
    row = run_missing(rounded(experiment, 8), progress=False).iloc[0]
    assert row["status"] == "ok" and row["top1_agreement"] > 0.98 and row["max_abs_err"] > 1e-2
    assert abs(row["accuracy"] - row["reference_accuracy"]) < 0.02
    assert row["reference_accuracy"] == pytest.approx(own_accuracy())

    config = configuration({**values, "name": "two"})
    with pytest.raises(TrialError, match=r"the same class for \d+\.\d\d% of 160 images, expected 90\.00% at least"):
        broken = rounded(dataclasses.replace(experiment, config=config), 2)
        run_missing(dataclasses.replace(broken, points=[(0,), (1,), (2,)]), progress=False)
    record = read_record(trial_path(config.folder, (2,), 0))
    assert record.status == "failed" and record.metrics == {}
    assert f"(float32 model {100 * own_accuracy():.3g} %), 160 images" in record.error


@pytest.fixture
def experiment(digits):
    return prepare(configuration({**digits, "min_agreement": 0.97}), progress=False)


@pytest.mark.parametrize("lossy", [False, True])
def test_outputs_that_are_perturbed_are_judged_by_rounding_or_by_agreement(experiment, monkeypatch, lossy):
    monkeypatch.setattr(Configuration, "lossy", lossy)
    outputs = [array_of(one) for one in (*experiment.references, *experiment.references[:2])]
    assert experiment.check_outputs(outputs).top1_agreement == 1
    louder = [one * np.float32(1.1) for one in outputs]  # the same classes
    wrong = [one[:, ::-1].copy() for one in outputs[:1]] + outputs[1:]  # of the first 8 of 160
    if lossy:
        assert experiment.check_outputs(louder).accuracy == pytest.approx(own_accuracy())
        with pytest.raises(TrialError, match=r"the same class for 95\.\d\d% of 160 images, expected 97\.00% at least"):
            experiment.check_outputs(wrong)
    else:
        for changed in (louder, wrong):
            with pytest.raises(TrialError, match="does not compute what the model computes"):
                experiment.check_outputs(changed)


def test_other_labels_of_the_same_images_are_another_content_and_folders_without_labels_note_none(
    digits, experiment, trained, tmp_path
):
    assert "labels" not in prepare(configuration({**digits, "dataset": "synthetic"}), prove=False).content
    config = experiment.config
    claim_folder(config, experiment.testbed, experiment.content)
    path = trial_path(config.folder, (2,), 0)
    path.parent.mkdir()
    path.write_text("{}")
    claim_folder(configuration({**digits, "min_agreement": 0.2}), experiment.testbed, experiment.content)
    other = dataclasses.replace(experiment, labels=experiment.labels._replace(classes=9 - experiment.labels.classes))
    with pytest.raises(OutputError, match=r"\(labels: \w{12} there, \w{12} here\)"):
        claim_folder(config, experiment.testbed, other.content)


def test_labels_beyond_the_models_outputs_are_told_before_anything_is_measured(
    digits, tmp_path, shared_workers, capsys
):
    values = {**digits, "model": "tests.helpers.models:tiny", "weights": "random", "num_classes": 7}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    assert main([str(tmp_path / "grid.yaml")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "class '9' is number 9, and tests.helpers.models:tiny has 7 outputs, expected at least 10" in said
    assert not list((tmp_path / "out").rglob("trials/*"))


def test_pictures_beside_class_folders_end_the_command_before_a_worker_starts(digits, tmp_path, monkeypatch, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "b" / "b.png")
    values = {**digits, "dataset": f"folder:{tmp_path}", "num_images": 2, "batch_size": 1}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(grid_run, "workers_up", None)
    assert main([str(tmp_path / "grid.yaml")]) == 1
    assert "got 1 beside 'b': move these into the sub-folders" in " ".join(capsys.readouterr().err.split())
