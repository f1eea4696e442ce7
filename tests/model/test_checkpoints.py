from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import pickle
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pplib.errors import WeightsError
from pplib.model.weights.checkpoint import SUFFIXES, apply_checkpoint, check_source, read_checkpoint


def network(classes: int = 3) -> nn.Module:
    model = nn.Module()
    model.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.head = nn.Linear(4, classes)
    return model


class Recipe:
    """A class of the user's, whose code must not run."""

    def __init__(self) -> None:
        self.steps = [1, 2]


class Settings(dict):
    """A user's dict, as configuration libraries have."""


class Touches:
    """Writes a file when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (subprocess.call, (["touch", str(self.path)],))


class Bound:
    """Is unpickled by calling what a call returned."""

    def __reduce__(self):
        return (Path("x").exists, ())


class Shell:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def model():
    """The network whose weights the files have."""
    torch.manual_seed(1)
    return network()


@pytest.fixture
def state(model):
    return model.state_dict()


def load(path: Path, target: nn.Module | None = None) -> nn.Module:
    target = target or network()
    apply_checkpoint(target, read_checkpoint(str(path)), "net")
    return target


def same(one: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    counts = "num_batches_tracked"  # of no use in eval mode, and left as they are where they are missing
    return all(
        torch.equal(value.cpu(), state[key].cpu()) for key, value in one.state_dict().items() if counts not in key
    )


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def other(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return OrderedDict((key, value + 1) for key, value in state.items())


def one_line(error: pytest.ExceptionInfo[WeightsError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "weights_only" not in text and "add_safe_globals" not in text
    return text


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PTH", ".Pth.Tar", ".SAFETENSORS", ".th", ""])
@pytest.mark.parametrize("kind", ["torch", "torch before 1.6", "safetensors"])
def test_a_files_content_decides_how_it_is_read_not_its_name(tmp_path, state, suffix, kind):
    path = tmp_path / f"weights{suffix}"
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    check_source(str(path))
    assert same(load(path), state)


@pytest.mark.parametrize("length", [0x7B20, 0x7B, 0x3C20, 0x8B1F])
def test_safetensors_are_known_whatever_the_length_of_their_header_looks_like(tmp_path, state, length):
    content = safetensors.torch.save(state)
    size = int.from_bytes(content[:8], "little")
    if length < size:
        key = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        content, size, state = len(key).to_bytes(8, "little") + key + b"\0\0\0\0", len(key), None
    header = content[8 : 8 + size].ljust(length)
    (tmp_path / "w.bin").write_bytes(length.to_bytes(8, "little") + header + content[8 + size :])
    if state is None:
        assert list(read_checkpoint(str(tmp_path / "w.bin"))[""]) == ["w"]
    else:
        assert same(load(tmp_path / "w.bin"), state)


NESTED = {
    **{key: (lambda s, key=key: {"epoch": 3, key: s}) for key in (
        "state_dict", "model", "model_state_dict", "net", "network", "ema", "model_ema", "state_dict_ema", "module",
        "params", "params_ema", "weights", "anything")},
    "state.model": lambda s: {"state": {"model": s, "epoch": 3}},
    "in a list": lambda s: [s, {"epoch": 3}],
    "in a tuple": lambda s: (3, s),
    "beside numbers": lambda s: {**s, "epoch": 3, "best": 0.5, "note": "x"},
    "beside other tensors": lambda s: {"state_dict": s, "mean": torch.zeros(3), "rng": torch.get_rng_state()},
    "timm": lambda s: {"state_dict": s, "state_dict_ema": other(s), "arch": "net"},
    "model and ema": lambda s: {"ema": other(s), "model": s},
    "ema first": lambda s: {"model_ema": {"state_dict": other(s)}, "model": {"state_dict": s}},
    "state_dict before net": lambda s: {"net": other(s), "state_dict": s},
    "equal twice": lambda s: {"first": s, "second": copy.deepcopy(s)},
    "six deep": lambda s: {"a": {"b": {"c": {"d": s}}}},
    "another network beside": lambda s: {"discriminator": {"conv.weight": torch.zeros(3)}, "generator": s},
}  # fmt: skip
PREFIXED = {
    **{prefix: (lambda s, prefix=prefix: under(prefix, s)) for prefix in (
        "module.", "model.", "_orig_mod.", "net.", "backbone.", "module.model.", "model.module.", "model._orig_mod.",
        "_orig_mod.module.", "module._orig_mod.model.", "my_very_own.", "a.b.c.")},
    "in the middle": lambda s: {key.replace("features.", "features.module."): value for key, value in s.items()},
    "in the middle and in front": lambda s: under("model.", {
        key.replace("features.0", "features._orig_mod.0.module"): value for key, value in s.items()}),
    "with a loss beside": lambda s: {"state_dict": {**under("model.", s), "loss.weight": torch.ones(3)}},
    "a usual name before another": lambda s: {**under("momentum_model.", other(s)), **under("model.", s)},
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)},
    "operations counted": lambda s: {**s, "total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)},
    "settings of layers": lambda s: {**s, "head._extra_state": torch.zeros(3, dtype=torch.uint8)},
    "an unusual name with a loss beside": lambda s: {"state_dict": {**under("classifier.", s), "w": torch.ones(3)}},
    "an unusual name without counters": lambda s: {
        **under("resnet.", {key: value for key, value in s.items() if "num_batches" not in key}), "w": torch.ones(3)},
    "a counter of another kind": lambda s: {**s, "features.1.num_batches_tracked": torch.tensor([3.0])},
    "lightning with ema": lambda s: {"state_dict": {**under("ema_model.", other(s)), **under("model.", s)}},
}  # fmt: skip


@pytest.mark.parametrize("shape", [*NESTED, *PREFIXED])
def test_the_weights_are_found_wherever_training_code_puts_them(tmp_path, state, shape):
    torch.save({**NESTED, **PREFIXED}[shape](state), tmp_path / "w.pth")
    assert same(load(tmp_path / "w.pth"), state)


def test_a_model_with_a_part_named_as_a_wrapper_keeps_its_names(tmp_path):
    torch.manual_seed(3)
    model = nn.Module()
    model.module, model.linear = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(under("module.", model.state_dict()), tmp_path / "w.pth")
    target = copy.deepcopy(model)
    nn.init.zeros_(target.module.weight)
    assert same(load(tmp_path / "w.pth", target), model.state_dict())


def test_what_was_taken_is_told_where_there_was_a_choice(tmp_path, state, caplog):
    torch.save({"model_ema": other(state), "model": under("module.", state)}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "w.pth")
    assert "taken: entry `model`, prefix `module.` taken off; fitting as well: entry `model_ema`" in caplog.text
    caplog.clear()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    load(tmp_path / "w.pth")
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"student": s, "teacher": other(s)},
        lambda s: {**under("encoder_q.", s), **under("encoder_k.", other(s))},
    ],
)
def test_two_sets_that_fit_equally_well_are_refused_by_name(tmp_path, state, content):
    torch.save(content(state), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"two sets of tensors fit equally well: .*(teacher|encoder_q)") as caught:
        load(tmp_path / "w.pth")
    one_line(caught)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        lambda tmp_path: argparse.Namespace(lr=0.1, path=tmp_path),
        lambda tmp_path: np.float64(3.5),
        lambda tmp_path: {"best": np.float32(1), "curve": np.zeros(3), "order": np.array([{}], dtype=object)},
        lambda tmp_path: defaultdict(list, {"loss": [1.0]}),
        lambda tmp_path: tmp_path,
        lambda tmp_path: Recipe(),
        lambda tmp_path: Settings(lr=Settings(a=1)),
        lambda tmp_path: slice(3),
        lambda tmp_path: {Recipe, print, argparse.Namespace},
        lambda tmp_path: torch.optim.Adam(network().parameters()).state_dict(),
        lambda tmp_path: Touches(tmp_path / "ran"),
    ],
)
def test_what_lies_beside_the_tensors_is_left_out_and_its_code_does_not_run(tmp_path, state, beside, legacy):
    content = {"args": beside(tmp_path), "state_dict": state, "again": beside(tmp_path)}
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=not legacy)
    before = set(torch.serialization.get_safe_globals())  # torch itself keeps them in no order
    assert same(load(tmp_path / "w.ckpt"), state)
    assert not (tmp_path / "ran").exists() and set(torch.serialization.get_safe_globals()) == before


def test_a_file_that_calls_the_system_is_refused_and_does_not(tmp_path, state):
    torch.save({"state_dict": state, "x": Shell(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"refers to posix.system, which no weights need: it would run code"
    ) as caught:
        load(tmp_path / "w.pth")
    one_line(caught)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("own", [torch.float16, torch.float32, torch.float64])
def test_weights_of_another_precision_are_converted_to_the_models(tmp_path, model, dtype, own):
    model.to(dtype)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    target = load(tmp_path / "w.safetensors", network().to(own))
    assert target.head.weight.dtype == own and torch.equal(target.head.weight, model.head.weight.to(own))


def test_tied_tensors_may_be_given_once(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    safetensors.torch.save_model(tied, str(tmp_path / "w.safetensors"))
    target = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    target[1].weight = target[0].weight
    assert same(load(tmp_path / "w.safetensors", target), tied.state_dict())


def test_versions_of_layouts_survive_a_prefix(tmp_path, state):
    """Batch-norm of version 1 had no counter; a file that says version 2 must have it as any other tensor."""
    wrapped = nn.DataParallel(network()).state_dict()
    torch.save({"model": wrapped}, tmp_path / "w.pth")
    (fit,) = read_checkpoint(str(tmp_path / "w.pth")).values()
    assert fit._metadata["module.features.1"]["version"] == 2
    assert same(load(tmp_path / "w.pth"), {key.removeprefix("module."): value for key, value in wrapped.items()})


def _save(content):
    return lambda path, model: torch.save(content(model), path)


def _cut(legacy: bool):
    def write(path: Path, model: nn.Module) -> None:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:-300])

    return write


def _cut_safetensors(path: Path, model: nn.Module) -> None:
    path.write_bytes(safetensors.torch.save(model.state_dict())[:-20])


def _script(path: Path, model: nn.Module) -> None:
    # torch warns that TorchScript is going away; people's files are there.
    code = "import sys, torch; torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), sys.argv[1])"
    subprocess.run([os.sys.executable, "-W", "ignore", "-c", code, str(path)], check=True, timeout=100)


def _exported(path: Path, model: nn.Module) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # as torch.export.save of 2.9 and 2.10 names them
        archive.writestr("w/archive_format", "pt2")
        archive.writestr("w/data/weights/weight_0", b"x")


def _zip(path: Path, model: nn.Module) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"x")


def _tar(path: Path, model: nn.Module) -> None:
    torch.save(model.state_dict(), path.with_suffix(".inner"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_suffix(".inner"), "w.pth")


def _index(path: Path, model: nn.Module) -> None:
    path.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))


def _folder(path: Path, model: nn.Module) -> None:
    path.mkdir()
    (path / "pytorch_model.bin").touch()


def _swap(key: str, value):
    return _save(lambda model: {**model.state_dict(), key: value(model.state_dict()[key])})


REFUSED = {
    "whole module": (_save(lambda model: model), "is a whole pickled module .*code, not a state dict.*state_dict"),
    "whole module under a key": (
        _save(lambda model: {"model": model, "epoch": 1}),
        r"the entry `model` is a whole pickled module \(torch.nn.modules.module.Module\)",
    ),
    "whole module, old layout": (
        lambda path, model: torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        "is or holds a whole pickled module",
    ),
    "calls what calls return": (
        _save(lambda model: {"state_dict": model.state_dict(), "x": Bound()}),
        "holds objects that cannot be read without running code",
    ),
    "protocol 4": (
        lambda path, model: torch.save(model.state_dict(), path, pickle_protocol=4),
        "is written with a pickle protocol that PyTorch does not read safely",
    ),
    "TorchScript": (_script, "is a TorchScript archive .*torch.jit.load"),
    "Git-LFS": (
        lambda path, model: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a Git-LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "HTML": (lambda path, model: path.write_text("\n<!DOCTYPE html><html>404</html>"), "is an HTML page"),
    "HTML, lower case": (lambda path, model: path.write_text("<html><body>"), "is an HTML page"),
    "empty": (lambda path, model: path.touch(), "is empty"),
    "cut": (_cut(False), r"is cut off after \d+ bytes"),
    "cut, old layout": (_cut(True), "is cut off or damaged"),
    "cut safetensors": (_cut_safetensors, "is cut off or damaged"),
    "folder": (_folder, "is a directory: give the file inside; it holds pytorch_model.bin"),
    "index": (_index, r"is the index of weights in 2 files \(model-1.safetensors, model-2.safetensors\)"),
    "JSON": (lambda path, model: path.write_text("{}"), "is JSON, not weights"),
    "text": (lambda path, model: path.write_text("hello"), "is no checkpoint: it begins with b'hello'"),
    "torch.export": (_exported, "is a torch.export archive, which holds a program: .*torch.export.load"),
    "zip": (_zip, "is a zip archive, but no checkpoint: it holds a.npy"),
    "tar": (_tar, "is a tar archive: unpack it"),
    "gzip": (lambda path, model: path.write_bytes(b"\x1f\x8b\x08..."), "is compressed .gzip.: unpack it"),
    "Keras": (lambda path, model: path.write_bytes(b"\x89HDF\r\n\x1a\n......."), "is an HDF5 file .Keras"),
    "NumPy": (lambda path, model: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), "is a NumPy array"),
    "plain pickle": (
        lambda path, model: path.write_bytes(pickle.dumps({"a": 1})),
        "is a pickle that torch.save did not write",
    ),
    "numbers": (_save(lambda model: {"epoch": 3}), r"holds no tensors, but a dict of `epoch` \(int\)"),
    "nothing": (_save(lambda model: {}), "holds no tensors"),
    "whole module beside a tensor": (
        _save(lambda model: {"model": model, "mean": torch.zeros(3)}),
        "the entry `model` is a whole pickled module",
    ),
    "arrays": (
        _save(lambda model: {"state_dict": {"a": np.zeros(3)}}),
        r"holds no tensors, but a dict of `state_dict` \(dict\) \(arrays of NumPy, of which torch.from_numpy",
    ),
    "only an optimizer": (
        _save(lambda model: {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict()}),
        "holds no tensors, but a dict of `optimizer`",
    ),
    "meta": (_swap("head.weight", lambda value: value.to("meta")), "head.weight: on the meta device, it has no values"),
    "sparse": (_swap("head.weight", lambda value: value.to_sparse()), r"head.weight: sparse .*\.to_dense"),
    "quantized": (
        _swap("head.weight", lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
        r"head.weight: quantized \(torch.qint8\): give the weights before quantization",
    ),
    "integers": (_swap("head.weight", lambda value: value.to(torch.int8)), "head.weight: expected torch.float32, got"),
    "complex": (_swap("head.bias", lambda value: value + 1j), "head.bias: expected torch.float32, got torch.complex64"),
    "another head": (
        _save(lambda model: {"model": under("module.", network(10).state_dict())}),
        r"head.bias: expected \(3,\), got \(10,\).*entry `model`, prefix `module.` taken off.*set num_classes: 10, as",
    ),
    "another network": (
        _save(lambda model: under("encoder.layer.", nn.Linear(2, 2).state_dict())),
        r"missing \(features.0.weight; .*2 unexpected \(encoder.layer.weight",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning", "ignore:.*quantiz:UserWarning")
def test_a_file_that_is_no_fitting_state_dict_says_what_it_is_in_one_line(tmp_path, model, kind):
    write, match = REFUSED[kind]
    path = tmp_path / "w.pth"
    write(path, model)
    with pytest.raises(WeightsError, match=match) as caught:
        load(path)
    assert len(one_line(caught)) < 600


def test_an_address_is_told_to_be_one():
    with pytest.raises(WeightsError, match=r"https://x\.org/w\.pth is an address: download it"):
        check_source("https://x.org/w.pth")


def test_which_entry_was_taken_is_returned(tmp_path, state):
    torch.save({"model_ema": under("module.", state)}, tmp_path / "w.pth")
    taken = apply_checkpoint(network(), read_checkpoint(str(tmp_path / "w.pth")), "net")
    assert taken == "entry `model_ema`, prefix `module.` taken off"
    torch.save(state, tmp_path / "plain.pth")
    assert apply_checkpoint(network(), read_checkpoint(str(tmp_path / "plain.pth")), "net") == ""


def test_tensors_are_mapped_from_the_file_where_its_layout_allows_it(tmp_path, state, monkeypatch):
    asked = []
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: asked.append(options) or original(*args, **options))
    for new in (True, False):
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
        read_checkpoint(str(tmp_path / "w.pth"))
    assert [options["mmap"] for options in asked] == [True, False]
    assert all(options["weights_only"] for options in asked)


def a_nest(levels, width):
    """Dicts that each hold the next many times: the way through all of them never ends."""
    inner = {"w": torch.zeros(1)}
    for _ in range(levels):
        inner = {str(i): inner for i in range(width)}
    return inner


def test_an_archive_that_unpacks_to_more_than_itself_is_not_unpacked(tmp_path):
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"x\.pth: is compressed: of its \d{4} bytes 40\d{5} would be made"):
            read_checkpoint(str(tmp_path / "x.pth"))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_checkpoint_that_holds_itself_many_times_over_is_read_once(tmp_path):
    torch.save(a_nest(3, 1000), tmp_path / "x.pth")
    assert len(read_checkpoint(str(tmp_path / "x.pth"))) == 1


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth: is no ordinary file"):
        read_checkpoint(str(tmp_path / "x.pth"))
