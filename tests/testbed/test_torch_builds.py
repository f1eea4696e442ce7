"""Which build of PyTorch a device gets, and why it can have none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from pplib import ROOT
from pplib.devices import Device
from pplib.errors import ParetoPipeError
from pplib.runtimes import NAMES
from pplib.testbed.provision import setup as room
from pplib.testbed.provision.needs import Needs, lock_of
from pplib.testbed.provision.status import Status
from pplib.testbed.provision.torch_builds import ANY, ARM64_CPU, NO_TORCH, SURVEY, System, choose, survey_lines, unfit
from pplib.testbed.shipping.our_code import our_code
from pplib.testbed.ssh.device import SshDevice

PI = System("aarch64", 64, (2, 36), False, 4_000_000_000, (3, 11), True)
SERVER = System("x86_64", 64, (2, 39), True, 64_000_000_000, (3, 12), True)
ARM_SERVER = replace(SERVER, machine="aarch64")
PIS = ["torch==2.9.1", "torchvision==0.24.1"]


@pytest.mark.parametrize(
    ("systems", "here", "chosen"),
    [
        ([PI, PI], ("2.15.0", "0.30.0"), [PIS, PIS]),
        ([replace(PI, python3=(3, 13))], ("", ""), [PIS]),
        ([PI, SERVER], ("2.15.0", "0.30.0"), [PIS, PIS]),
        ([SERVER, SERVER], ("2.15.0", "0.30.0"), [["torch==2.15.0", "torchvision==0.30.0"]] * 2),
        ([SERVER], ("2.16.0.dev20261101", "0.31.0a0"), [[]]),
        ([PI, ARM_SERVER], ("2.15.0", "0.30.0"), [PIS, []]),
        ([ARM_SERVER], ("2.15.0", "0.30.0"), [["torch==2.15.0", "torchvision==0.30.0"]]),
    ],
)  # fmt: skip
def test_all_devices_get_the_version_that_all_can_have(systems, here, chosen):
    assert [build.constraints for build in choose(systems, *here)] == chosen


def test_a_pi_is_asked_for_two_gigabytes_and_an_x86_device_for_what_cuda_takes():
    assert [build.room_bytes for build in choose([PI, SERVER])] == [2e9, 10e9]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"python3": (3, 13)}, ""),
        ({"bits": 32}, "its system is a 32-bit one (aarch64)"),  # a 64-bit kernel below 32-bit programs
        ({"machine": "armv7l"}, "its system is a 32-bit one (armv7l)"),
        ({"python3": ()}, "there is no Python: `sudo apt install python3 python3-venv`"),
        ({"python3": (3, 9)}, "expected Python 3.11 or newer, got 3.9: Raspberry Pi OS 12 has 3.11, and 13 has 3.13"),
        ({"venv": False}, "`sudo apt install python3-venv`"),
        ({"glibc": (2, 27)}, "its C library is 2.27"),
        ({"python3": (3, 15)}, "has no build for Python 3.15"),
    ],
)
def test_a_system_that_can_have_no_environment_is_told_what_to_do(change, said):
    found = unfit(replace(PI, **change), ARM64_CPU)
    assert said in found and bool(found) == bool(said)


def test_this_machine_is_surveyed_by_the_same_words_and_gets_its_constraints_from_the_same_table():
    done = subprocess.run(["sh", "-c", SURVEY], capture_output=True, text=True, timeout=60, check=True)
    here = System.of(survey_lines(done.stdout))
    assert here.bits == 64 and here.memory_bytes > 1e9 and here.python3 >= (3, 8)
    program = [sys.executable, "-I", "-S", room.__file__.replace("setup.py", "torch_builds.py")]
    printed = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert printed == choose([here])[0].constraints


def member(name, system, build, **values):
    device = Device(name=name, host="10.0.0.9", **values)
    return SshDevice(device), Status("/x", "c", (), False, "home", system), build, Needs()


def test_unlike_devices_that_share_a_home_are_refused_by_name_unless_one_has_a_python_of_its_own():
    home = room._Home()
    home.members += [member("pi", PI, ARM64_CPU), member("server", SERVER, ANY)]
    room._agree(home, 0)
    with pytest.raises(ParetoPipeError, match=r"server: it shares its home with pi, .*aarch64 on pi, x86_64 here"):
        room._agree(home, 1)
    home.members[0] = member("pi", PI, ARM64_CPU, python="/opt/venv")
    room._agree(home, 1)


@pytest.mark.parametrize(("has", "kept"), [(["eager"], True), (["openvino", "eager"], True), (["old"], False)])
def test_what_another_grid_needed_stays_in_an_environment_if_it_is_what_would_be_installed_now(monkeypatch, has, kept):
    installed = [mark for name in has for mark in (Needs((name,)).marks(ANY) if name in NAMES else [name])]
    machine, status, build, _ = member("server", SERVER, ANY)
    monkeypatch.setattr(machine, "put", lambda content, place: None)
    monkeypatch.setattr(room, "_verify", lambda machine, needs: "verified")
    monkeypatch.setattr(room, "install", lambda *arguments: asked.append(arguments[2:5]))
    asked, needs = [], Needs(("onnxruntime",))
    status = msgspec.structs.replace(status, installed=tuple(installed), code=our_code().hash)
    room._set_up(machine, status, build, needs, lambda line: None)
    assert asked == [(NO_TORCH, needs, kept)]


def test_a_runtime_that_was_made_with_one_pytorch_gets_that_on_a_pi_too_and_so_does_all_else_there():
    needs = Needs(("eager", "executorch", "onnxruntime"))
    assert needs.build(ARM64_CPU) is ANY
    assert [build for _, build in needs.files(ARM64_CPU)] == [ANY, ANY, NO_TORCH]
    assert Needs(("eager", "onnxruntime")).build(ARM64_CPU) is ARM64_CPU
    assert lock_of(ROOT / "requirements-executorch.txt", ANY).name == "requirements-executorch-any.txt"
