"""Checking devices: facts of real ones over SSH, everything that can be wrong with them, and one that hangs."""

from __future__ import annotations

import sys
from dataclasses import replace

import msgspec
import pytest

from pplib.devices import Device
from pplib.devices.__main__ import main
from pplib.links import Direction, LinkProfile
from pplib.testbed.emulation.namespaces import supported
from pplib.testbed.provision import check as room
from pplib.testbed.provision.check import CheckReport, Finding, check
from pplib.testbed.provision.facts import ClockFacts, Facts, GpuFacts, Module, measure_hop
from pplib.testbed.provision.findings import ROWS
from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.setup import set_up
from pplib.testbed.shipping.our_code import our_code
from pplib.testbed.ssh.machine import machine_of

WAY = Direction(delay_s=0.02, rate_bit_s=20e6)
LINK = LinkProfile(name="slow", forward=WAY, backward=WAY)


def finding(report, device, row):
    return next(one for one in report.devices[device] if one.row == row)


@pytest.mark.waits(20)
def test_devices_that_are_set_up_pass_and_the_link_between_them_is_measured(start_remote, tmp_path, capsys):
    with start_remote(profile=LINK) as remote:
        file = remote.write(tmp_path / "devices.yaml", python=sys.executable)
        assert all("ready" in str(one) for one in set_up(remote.testbed(tmp_path, python=sys.executable)).values())
        assert main(["check", str(file)]) == 0
        lines = capsys.readouterr().out.splitlines()
        with_both = {line.split()[0]: line for line in lines[: lines.index("")]}
        assert lines[0].split() == ["device-0", "device-1"]
        assert [line for line in lines if "FAIL" in line] == []
        assert with_both["code"].split() == ["code", "ok", our_code().hash[:8], "ok", our_code().hash[:8]]
        assert with_both["data"].split("ok")[1].strip() == "10.77.0.1 on data"
        trip_ms, rate = with_both["next"].split()[3], with_both["next"].split()[5]
        assert float(trip_ms) >= 40
        assert 10 < float(rate) < 21
        assert with_both["next"].split()[-1] == "-", "the last device has no next one"


def test_everything_that_is_wrong_is_named_with_what_to_do(remote, tmp_path, monkeypatch):
    bed = remote.testbed(
        tmp_path,
        each=[
            {"interface": "lo", "cores": [4096], "torch_device": "cuda:7", "python": sys.executable},
            {"python": "/none/python", "data_host": "10.9.9.9", "threads": 4096},
        ],
    )
    monkeypatch.setattr("pplib.limits.HOP_S", 4.0)
    report = check(bed)
    assert not report.ok
    wrong = {
        (name, one.row): (one.level, one.text, one.advice)
        for name, own in report.devices.items()
        for one in own
        if one.level != "ok"
    }
    for key, level, text, advice in (
        (("device-0", "data"), "fail", "10.77.0.1 on data", "is not on `interface` lo; it has 10.77.0.1 on data"),
        (("device-0", "cores"), "fail", "1 threads", "`cores` names [4096]; it has [0"),
        (("device-0", "torch"), "fail", "no cuda:7", "correct `torch_device` or the GPU's driver"),
        (("device-0", "code"), "fail", f"no {our_code().hash[:8]}", "run `setup`"),
        (("device-0", "next hop"), "fail", "no way", "device-0 does not reach device-1 at 10.9.9.9"),
        (("device-1", "Python"), "fail", "no /none/python", "there is no /none/python: correct `python`"),
        (("device-1", "data"), "fail", "10.9.9.9", "set `data_host` to one it has: 10.77.0.2 on data"),
        (("device-1", "cores"), "warn", "4096 threads", "set `threads` to"),
    ):
        assert wrong[key][0] == level
        assert text in wrong[key][1]
        assert advice in wrong[key][2]
    said = str(report)
    assert "What to do:" in said and "  FAIL device-1, data: it has not the address 10.9.9.9" in said


def test_a_device_that_hangs_or_is_off_is_a_finding_and_holds_up_nobody(start_remote, tmp_path):
    with start_remote(num_devices=3) as remote:
        bed = remote.testbed(tmp_path, python="/usr/bin/python3")
        remote.devices[0].switch("freeze")
        remote.devices[2].switch("off")
        report = check(bed)
        remote.devices[0].switch("thaw")
        assert [one.level for one in report.devices["device-0"]] == ["fail"]
        assert "answers, but opens no SSH connection" in report.devices["device-0"][0].advice
        assert [one.level for one in report.devices["device-2"]] == ["fail"]
        assert finding(report, "device-1", "reachable").level == "ok"
        assert finding(report, "device-1", "memory").text.endswith("GB free")


def test_a_device_that_answers_but_never_to_the_end_is_given_up(remote, tmp_path):
    programs = remote.devices[0].home / "bin"
    programs.mkdir()
    (programs / "date").write_text("#!/bin/sh\nexec sleep 1000\n")
    (programs / "date").chmod(0o755)
    try:
        report = check(remote.testbed(tmp_path, python="/usr/bin/python3"), device_s=6)
    finally:
        (programs / "date").unlink()
        programs.rmdir()
    assert [(one.row, one.level, one.text) for one in report.devices["device-0"]] == [("reachable", "fail", "hangs")]
    assert "not done within 6 s" in report.devices["device-0"][0].advice
    assert finding(report, "device-1", "reachable").level == "ok"


def test_a_hop_of_a_fixed_data_port_is_measured_through_that_port(remote, tmp_path, wait_until):
    bed = remote.testbed(tmp_path, each=[{}, {"data_port": 7123}])
    one, other = (machine_of(device) for device in bed.devices)
    try:
        hop = measure_hop(one, other, "10.77.0.2")
        assert hop.goodput_bit_s > 1e6 and 0 < hop.rtt_s < 1
        assert not [line for _, line in remote.devices[1].processes() if "hop_probe" in line]
    finally:
        one.close()
        other.close()


FACTS = Facts(
    python="3.11.2",
    executable="/x",
    machine="aarch64",
    torch=Module("2.9.0+cpu", ""),
    torchvision=Module("0.24.0", ""),
    gpu=GpuFacts("", ""),
    runtimes={"eager": "2.14.1"},
    cores=[0, 1, 2, 3],
    memory_bytes=4_000_000_000,
    available_bytes=3_000_000_000,
    free_disk_bytes=9_000_000_000,
    addresses=[("lo", "127.0.0.1"), ("eth0", "10.0.0.1")],
)


EAGER = Needs()


def judged(remote, tmp_path, facts=FACTS, clock=ClockFacts(0.001, 0.002), qdiscs=({"netem", "tbf"}, ""), needs=EAGER):  # noqa: B008
    device = remote.testbed(tmp_path, each=[{"interface": "eth0", "user": "pi"}, {}]).devices[0]
    one = room._Gathered(machine_of(device), 0.3, clock, facts, None, qdiscs, "10.0.0.1")
    return {found.row: found for found in room._judge(one, needs)}, one


def test_a_healthy_device_is_ok_in_every_row(remote, tmp_path):
    found, _ = judged(remote, tmp_path)
    assert [one.row for one in found.values() if one.level != "ok"] == []
    assert set(found) == set(ROWS) - {"next hop"}
    assert found["clock"].text == "+0.001 s, within 0.002 s"
    assert found["memory"].text == "3.0 of 4.0 GB free"


@pytest.mark.parametrize(
    ("row", "level", "advice", "changes"),
    [
        ("Python", "fail", "3.11 or newer", {"facts": {"python": "3.9.2"}}),
        ("torch", "fail", "torch cannot be imported (ImportError)", {"facts": {"torch": Module("", "ImportError")}}),
        ("torch", "fail", "torchvision cannot", {"facts": {"torchvision": Module("", "RuntimeError: nms")}}),
        ("memory", "warn", "a stage may not fit", {"facts": {"available_bytes": 100_000_000}}),
        ("memory", "warn", "less than 1 GB", {"facts": {"memory_bytes": 950_000_000, "available_bytes": 700_000_000}}),
        ("disk", "warn", "make room", {"facts": {"free_disk_bytes": 100_000_000}}),
        ("clock", "warn", "timedatectl set-ntp true", {"clock": ClockFacts(-3600.0, 0.01)}),
        ("shaping", "warn", "modprobe sch_netem", {"qdiscs": ({"tbf"}, "unknown")}),
        ("shaping", "warn", "install iproute2", {"qdiscs": ({"no-tc"}, "")}),
        ("shaping", "warn", "`pi ALL=(root) NOPASSWD: ALL` (sudo: no)", {"qdiscs": (set(), "sudo: no")}),
    ],
)  # fmt: skip
def test_what_is_not_well_says_what_to_do(remote, tmp_path, row, level, advice, changes):
    changes = {**changes, "facts": msgspec.structs.replace(FACTS, **changes.get("facts", {}))}
    found = judged(remote, tmp_path, **changes)[0][row]
    assert found.level == level
    assert advice in found.advice


@pytest.mark.parametrize(
    ("has", "needs", "rows"),
    [
        ({}, ["onnxruntime"], {"torch": "none, none needed", "runtimes": "needs onnxruntime there: run `setup` with"}),
        ({"onnxruntime": "1.32.0"}, ["onnxruntime"], {"torch": "none, none needed", "runtimes": "onnxruntime 1.32.0"}),
        ({"onnxruntime": "1.32.0"}, ["eager"], {"torch": "; a grid of onnxruntime needs none there: `check` it in pl"}),
        ({"onnxruntime": "1.32.0"}, ["eager", "openvino"], {"torch": "run `setup`", "runtimes": "openvino there: run"}),
    ],
)
def test_a_device_without_pytorch_is_well_where_the_grid_asks_for_none_of_it(remote, tmp_path, has, needs, rows):
    facts = msgspec.structs.replace(FACTS, torch=Module("", "ModuleNotFoundError: torch"), runtimes=has)
    found, _ = judged(remote, tmp_path, facts, needs=Needs(tuple(needs)))
    for row, said in rows.items():
        assert said in found[row].text + found[row].advice
        assert (found[row].level == "ok") == (not found[row].advice)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "127.255.0.9"])
def test_every_loopback_address_is_on_the_loopback_interface(address):
    device = Device(name="a", host=address, interface="lo")
    assert room._data(device, FACTS, address) == Finding("data", "ok", f"{address} on lo")


def test_unlike_torch_versions_are_a_warning_for_rpc_only(remote, tmp_path):
    _, one = judged(remote, tmp_path)
    other_facts = msgspec.structs.replace(FACTS, torch=Module("2.10.0", ""))
    other = replace(one, facts=other_facts, machine=machine_of(msgspec.structs.replace(one.machine.device, name="b")))
    findings = {"device-0": [Finding("torch", "ok", "2.9.0")], "b": [Finding("torch", "ok", "2.10.0")]}
    room._compare_torch(findings, [one, other])
    for own in findings.values():
        assert own[0].level == "warn"
        assert "2.9.0 on device-0, 2.10.0 on b; sockets do not mind" in own[0].advice
    same = {"device-0": [Finding("torch", "ok", "2.9.0")], "b": [Finding("torch", "ok", "2.9.0")]}
    room._compare_torch(
        same, [one, replace(one, facts=msgspec.structs.replace(FACTS, torch=Module("2.9.0+cu128", "")))]
    )
    assert all(own[0].level == "ok" for own in same.values())
    assert CheckReport(same).ok


@pytest.mark.optional
def test_devices_on_this_machine_are_checked_too(tmp_path, capsys):
    file = tmp_path / "devices.yaml"
    file.write_text("devices: [{name: a}, {name: b}]\n")
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "this machine" in said and "127.0.0.1 on lo" in said
    assert "emulated by" in said if supported() is None else "install" in said
    file.write_text("devices: [{name: a}]\n")
    assert main(["check", str(file)]) == 1
    assert "devices: expected `array` of length >= 2" in capsys.readouterr().err
