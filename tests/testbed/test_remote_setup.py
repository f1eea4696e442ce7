"""Devices from fresh to ready, over SSH to real servers, with real environments made by venv and pip."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from pplib import ROOT
from pplib.devices.__main__ import main
from pplib.testbed.provision import torch_builds
from pplib.testbed.provision.check import check
from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.setup import set_up
from pplib.testbed.provision.status import status_of
from pplib.testbed.shipping.bundle import HASH_HERE, KEPT_VERSIONS, Bundle
from pplib.testbed.shipping.our_code import our_code, python_command
from pplib.testbed.ssh import device as ssh
from pplib.testbed.ssh.command import CommandError
from pplib.testbed.ssh.device import SshDevice

LIMIT_S = 60.0
PACKAGES = Path(pytest.__file__).resolve().parents[1]


@pytest.fixture
def commands(monkeypatch):
    """Every command that is sent to a device."""
    sent, run = [], ssh.SshDevice._run

    def spy(self, wrapper, command, *rest):
        sent.append((self.name, list(command)))
        return run(self, wrapper, command, *rest)

    monkeypatch.setattr(ssh.SshDevice, "_run", spy)
    return sent


def forget(remote):
    """Devices as they were before."""
    for one in remote.devices:
        with SshDevice(remote.bed.devices[one.index]) as device:
            device.run(["sh", "-c", 'rm -rf "$HOME/.paretopipe" "$HOME/.config" "$HOME/bin"'], check=True)


@pytest.fixture
def fresh(remote, tmp_path):
    """Devices with nothing of ours on them, and a file that gives them this interpreter."""
    remote.file = remote.write(tmp_path / "devices.yaml", python=sys.executable)
    remote.bed = remote.testbed(tmp_path, python=sys.executable)
    yield remote
    forget(remote)


def only_first(bed):
    """The first device alone: importing torch on each takes its time."""
    return msgspec.structs.replace(bed, devices=bed.devices[:1])


def needing(bed, *requirements):
    """These requirements for all devices."""
    return {device.name: Needs(requirements=requirements) for device in bed.devices}


def code_on(one):
    folder = one.home / ".paretopipe" / "code"
    return folder / our_code().hash


def test_the_shell_and_python_agree_on_the_hash_of_the_code(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(our_code().archive())) as archive:
        archive.extractall(tmp_path, filter="data")
    with os.popen(f"cd {tmp_path} && {HASH_HERE}") as said:
        assert said.read().strip() == our_code().hash
    assert (tmp_path / "pplib" / "pipeline" / "worker" / "worker.py").is_file() and (tmp_path / "workers").is_dir()
    assert our_code().archive() == our_code().archive()


def test_setting_up_ships_the_code_and_again_is_one_question(fresh, commands, capsys):
    assert main(["setup", str(fresh.file)]) == 0
    said = capsys.readouterr().out
    for one in fresh.devices:
        assert f"{one.name}: importing it all" in said
        assert f"{one.name}: ready: code shipped" in said
        assert (code_on(one) / "pplib" / "errors.py").read_bytes() == (ROOT / "pplib" / "errors.py").read_bytes()
        assert not list(code_on(one).parent.glob("*.tar.gz*")) and not list(code_on(one).parent.glob("new.*"))
    del commands[:]
    assert main(["setup", str(fresh.file)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{one.name}: ready: nothing to do" for one in fresh.devices]
    assert sorted(name for name, _ in commands) == [one.name for one in fresh.devices]


def test_code_that_was_changed_on_a_device_is_shipped_again(fresh):
    set_up(only_first(fresh.bed))
    changed = code_on(fresh.devices[0]) / "pplib" / "errors.py"
    before = changed.read_bytes()
    changed.write_bytes(before + b"# changed\n")
    with SshDevice(fresh.bed.devices[0]) as device:
        assert not status_of(device).complete
    assert "code shipped" in set_up(only_first(fresh.bed))["device-0"]
    assert changed.read_bytes() == before
    assert not (code_on(fresh.devices[0]) / "old").exists()
    with SshDevice(fresh.bed.devices[0]) as device:
        assert status_of(device).complete


def test_code_that_arrives_changed_is_not_used(fresh, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("pplib/evil.py", "workers/evil.py"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    monkeypatch.setattr(Bundle, "archive", lambda self: packed.getvalue())
    done = set_up(fresh.bed)
    for one in fresh.devices:
        assert isinstance(done[one.name], CommandError)
        assert "the code arrived changed" in str(done[one.name])
        assert not code_on(one).exists() and not list(code_on(one).parent.iterdir())


def test_the_newest_versions_of_the_code_stay_and_older_ones_go(fresh):
    folder = code_on(fresh.devices[0]).parent
    for i in range(9):
        version = folder / hashlib.sha256(str(i).encode()).hexdigest()
        version.mkdir(parents=True)
        os.utime(version, (i, i))
    (folder / "mine").mkdir()
    set_up(only_first(fresh.bed))
    assert len(list(folder.iterdir())) == KEPT_VERSIONS + 1
    assert code_on(fresh.devices[0]).is_dir() and (folder / "mine").is_dir()
    assert (folder / hashlib.sha256(b"8").hexdigest()).is_dir()
    assert not (folder / hashlib.sha256(b"4").hexdigest()).exists()


def test_a_device_that_fails_does_not_keep_the_other_from_being_set_up(remote, fresh, tmp_path, capsys):
    file = remote.write(tmp_path / "two.yaml", each=[{"python": "/none/python"}, {"python": sys.prefix}])
    assert main(["setup", str(file)]) == 1
    said = capsys.readouterr()
    assert "device-0: there is no /none/python: correct `python` in the device file, or leave it out" in said.err
    assert "device-1: ready: code shipped" in said.out


def test_a_python_without_what_a_worker_needs_is_found_out(fresh, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "bin").mkdir()
    (bare / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S -I "$@"\n')
    (bare / "bin" / "python").chmod(0o755)
    said = str(set_up(only_first(fresh.testbed(tmp_path, python=str(bare))))["device-0"])
    assert "cannot be imported: ModuleNotFoundError: No module named" in said
    assert f"install what requirements-pi.txt lists into {bare}" in said
    assert not list((fresh.devices[0].home / ".paretopipe").glob("ready/*"))


def wheel(folder, name, version="1.0"):
    """A wheel that gives an environment the packages of this one."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.pth", f"{PACKAGES}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.pth,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_an_environment_is_made_and_filled_by_pip_and_again_only_when_requirements_change(fresh, tmp_path, commands):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "everything")
    one = fresh.devices[0]
    (one.home / ".config" / "pip").mkdir(parents=True)
    # There is no network here: pip takes what this says, as it would take an index of the user.
    (one.home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
    requirements = tmp_path / "requirements-tiny.txt"
    requirements.write_text("everything==1.0\n")
    bed, said = only_first(fresh.testbed(tmp_path)), []

    def again():
        return str(set_up(bed, said.append, needing(bed, requirements))["device-0"])

    assert again().startswith("ready: requirements-tiny.txt installed, code shipped")
    assert said[0].startswith("device-0: installing requirements-tiny.txt with torch==")
    assert said[0].endswith("PyTorch is large, minutes the first time")
    assert not (one.home / ".paretopipe" / "tmp").exists()
    # What pip unpacks is where the environment is: /tmp may be in memory.
    assert f"temporary directory: {one.home}/.paretopipe/tmp/" in (one.home / ".paretopipe" / "pip.log").read_text()
    with SshDevice(bed.devices[0]) as device:
        words = python_command(device.device, ["-c", "import sys, pplib; print(sys.prefix, pplib.__file__)"])
        prefix, file = device.run(words, check=True).stdout.split()
    assert prefix == str(one.home / ".paretopipe" / "venv")
    assert file == str(code_on(one) / "pplib" / "__init__.py")

    del commands[:]
    assert again() == "ready: nothing to do"
    assert len(commands) == 1

    requirements.write_text("everything==2.0\n")
    failed = again()
    assert "environment could not be made" in failed and "everything==2.0" in failed
    wheel(wheels, "everything", "2.0")
    assert again().startswith("ready: requirements-tiny.txt installed, torch")
    assert ", the newest of the rest: no lock file has this: PyTorch" in said[0]

    # With a lock file that has this build of PyTorch nothing but what it lists is installed, by its hash.
    builds = re.findall(r"(torch|torchvision)==([\d.]+\d)", said[0])
    locked = [("everything", "1.0"), *builds]
    for name, version in builds:
        wheel(wheels, name, version)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()}
    lines = [
        f"{name}=={version} --hash=sha256:{hashes[f'{name}-{version}-py3-none-any.whl']}" for name, version in locked
    ]
    requirements.write_text("everything\n")
    lock = tmp_path / "locks" / "requirements-tiny-any.txt"
    lock.parent.mkdir()
    lock.write_text("\n".join([*lines[1:], lines[0].replace("sha256:", "sha256:0")[:-1], ""]))
    failed = again()
    assert "environment could not be made" in failed and "(all of it: ~/.paretopipe/pip.log there)" in failed
    lock.write_text("\n".join([*lines, ""]))
    assert again().startswith("ready: requirements-tiny.txt installed, torch")
    assert ", as locked, with hashes: PyTorch" in said[-2]
    (installed,) = (one.home / ".paretopipe" / "venv").glob("lib/*/site-packages/everything-*")
    assert installed.name == "everything-1.0.dist-info"
    assert again() == "ready: nothing to do"


def test_two_that_install_at_the_same_time_do_not_meet(fresh, tmp_path, wait_until):
    bed = only_first(fresh.testbed(tmp_path))
    with SshDevice(bed.devices[0]) as device, ThreadPoolExecutor(1) as pool:
        hold = 'mkdir -p "$HOME/.paretopipe"; exec flock "$HOME/.paretopipe/lock" cat'
        gate = (line for line in iter(lambda: "" if released else b"x" * 10, ""))
        released = []
        holding = pool.submit(device.run, ["sh", "-c", hold], stdin=gate, timeout_s=LIMIT_S, max_output_bytes=1 << 40)
        wait_until(lambda: any("flock" in line for _, line in fresh.devices[0].processes()), "the lock is not held")
        try:
            (tmp_path / "none.txt").write_text("")
            done = set_up(bed, needs=needing(bed, tmp_path / "none.txt"))
        finally:
            released.append(True)
        holding.result(LIMIT_S)
    assert "another `setup` is installing there: wait for it" in str(done["device-0"])


def test_a_system_without_the_package_that_makes_environments_is_told_which(fresh, tmp_path):
    programs = fresh.devices[0].home / "bin"
    programs.mkdir()
    hide = "import sys; sys.modules['ensurepip'] = None; exec(sys.argv[1])"
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -c "{hide}" "$2"\n')
    (programs / "python3").chmod(0o755)
    (tmp_path / "none.txt").write_text("")
    bed = only_first(fresh.testbed(tmp_path))
    done = set_up(bed, needs=needing(bed, tmp_path / "none.txt"))
    assert "device-0: it cannot make environments: `sudo apt install python3-venv` there" in str(done["device-0"])
    assert not (fresh.devices[0].home / ".paretopipe" / "venv").exists()
    report = check(msgspec.structs.replace(bed, devices=[*bed.devices, *bed.devices]))
    (python,) = [one for one in report.devices["device-0"] if one.row == "Python"]
    assert python.level == "fail" and "sudo apt install python3-venv" in python.advice


def tiny_requirements(one, folder):
    """A requirements file, and a pip on the device that finds what it lists without a network."""
    wheels = folder / "wheels"
    wheels.mkdir()
    wheel(wheels, "everything")
    (one.home / ".config" / "pip").mkdir(parents=True)
    (one.home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
    requirements = folder / "requirements-tiny.txt"
    requirements.write_text("everything==1.0\n")
    return requirements


def test_a_half_made_environment_is_made_anew_and_two_entries_of_one_home_install_once(fresh, tmp_path):
    one, said = fresh.devices[0], []
    requirements = tiny_requirements(one, tmp_path)
    half = one.home / ".paretopipe" / "venv" / "bin"
    half.mkdir(parents=True)
    (half / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")  # as where ensurepip was missing
    bed = only_first(fresh.testbed(tmp_path))
    twin = msgspec.structs.replace(bed.devices[0], name="twin")
    both = msgspec.structs.replace(bed, devices=[*bed.devices, twin])
    done = set_up(both, said.append, needing(both, requirements))
    assert str(done["device-0"]).startswith("ready: requirements-tiny.txt installed, code shipped"), done
    assert done["twin"] == "ready: nothing to do"
    assert len([line for line in said if "installing" in line]) == 1


def test_too_little_space_is_said_before_anything_is_installed(fresh, tmp_path, monkeypatch):
    requirements = tiny_requirements(fresh.devices[0], tmp_path)
    monkeypatch.setattr(torch_builds, "ANY", dataclasses.replace(torch_builds.ANY, room_bytes=1e15))
    bed = only_first(fresh.testbed(tmp_path))
    done = set_up(bed, needs=needing(bed, requirements))
    assert "GB are free in the home of its user, expected 1000000.0 GB for eager: make room" in str(done["device-0"])
    assert not (fresh.devices[0].home / ".paretopipe" / "venv").exists()


def test_two_that_bring_the_same_code_at_the_same_time_both_have_it(fresh):
    devices = [SshDevice(fresh.bed.devices[0]) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(our_code().put_on, devices))
        assert status_of(devices[0]).code == our_code().hash
        assert [path.name for path in code_on(fresh.devices[0]).parent.iterdir()] == [our_code().hash]
    finally:
        for device in devices:
            device.close()
