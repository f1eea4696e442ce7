"""Energy meters against fake machines: a powercap tree, NVML, a Raspberry Pi's firmware."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pplib.pipeline.monitor.energy import (
    NvmlEnergy,
    PmicEnergy,
    PowerIntegral,
    RaplEnergy,
    estimated_energy,
    pmic_power_w,
)
from pplib.pipeline.monitor.sources import Gpu, Unreadable, open_gpu, vcgencmd
from pplib.pipeline.monitor.usage import Usage, total_energy

PMIC = """\
     3V7_WL_SW_A current(0)=0.08784280A
       3V3_SYS_A current(1)=0.05000000A
      VDD_CORE_A current(7)=2.00000000A
     3V7_WL_SW_V volt(8)=3.72090000V
       3V3_SYS_V volt(9)=3.30000000V
      VDD_CORE_V volt(15)=0.75000000V
        EXT5V_V volt(24)=5.10000000V
         BATT_V volt(25)=0.00000000V
"""
PMIC_W = 0.0878428 * 3.7209 + 0.05 * 3.3 + 2.0 * 0.75


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def zone(root, folder, name, uj, range_uj=1_000_000):
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path / "energy_uj"


def test_rapl_adds_packages_and_memory_and_leaves_out_their_parts(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 100)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    other = zone(tmp_path, "intel-rapl:1", "package-1", 100)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 100)
    twice = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100)
    meter = RaplEnergy(tmp_path)
    meter.start()
    for file, uj in ((package, 400_100), (core, 200_100), (memory, 50_100), (other, 1_100), (whole, 9e5), (twice, 9e5)):
        file.write_text(f"{int(uj)}\n")
    reading = meter.stop()
    assert reading.joules == pytest.approx(0.451)
    assert (reading.source, reading.estimated, reading.scope) == ("rapl", False, "package")


def test_rapl_counts_on_when_the_counter_wraps_more_than_once(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplEnergy(tmp_path)
    meter.start()
    for uj in (200_000, 800_000, 100_000):  # 0.3 (wrap), 0.6, 0.3 (wrap)
        counter.write_text(f"{uj}\n")
        meter.sample()
    assert meter.stop().joules == pytest.approx(1.2)


def test_rapl_without_zones_says_so(tmp_path):
    with pytest.raises(Unreadable, match="no RAPL package zone"):
        RaplEnergy(tmp_path / "absent").start()


def test_rapl_that_only_root_may_read_says_permission_denied(tmp_path, monkeypatch):
    counter, read = zone(tmp_path, "intel-rapl:0", "package-0", 1), Path.read_text

    def as_a_user(path):
        if path == counter:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    with pytest.raises(Unreadable, match="energy_uj: Permission denied"):
        RaplEnergy(tmp_path).start()


def test_rapl_file_that_cannot_be_read_is_named_with_its_reason(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.unlink()
    counter.mkdir()
    with pytest.raises(Unreadable, match="energy_uj: Is a directory"):
        RaplEnergy(tmp_path).start()


def test_rapl_counter_that_stands_still_is_not_zero_joules(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplEnergy(tmp_path)
    meter.start()
    with pytest.raises(Unreadable, match="did not move"):
        meter.stop()


def test_power_is_integrated_over_the_whole_interval_by_trapezoids():
    clock = Clock()
    power = PowerIntegral(clock)
    power.start()
    for at_s, watts in ((1, 2.0), (3, 4.0), (4, 4.0)):
        clock.now_s = 100.0 + at_s
        power.add(watts)
    clock.now_s = 106.0
    # 0..1 held at 2 W, 1..3 from 2 to 4 W, 3..4 at 4 W, 4..6 held at 4 W
    assert power.stop() == pytest.approx(2 + 6 + 4 + 8)


def test_too_few_power_samples_are_no_energy():
    power = PowerIntegral(Clock())
    power.start()
    power.add(3.0)
    with pytest.raises(Unreadable, match=r"1 power samples in 0\.00 s, expected at least 3"):
        power.stop()


def test_pmic_power_is_the_sum_over_rails_with_current_and_voltage():
    assert pmic_power_w(PMIC) == pytest.approx(PMIC_W)


def test_pmic_energy_asks_no_more_often_than_its_period():
    clock, asked = Clock(), []

    def command(question):
        asked.append(question)
        return PMIC

    meter = PmicEnergy(command, clock)
    meter.start()
    for _ in range(8):
        clock.now_s += 0.25
        meter.sample()
    reading = meter.stop()
    assert asked == ["pmic_read_adc"] * 5  # once to see whether it answers, then every other sample
    assert reading.joules == pytest.approx(2.0 * PMIC_W)
    assert (reading.source, reading.scope) == ("pmic", "board")


def test_a_board_without_this_pmic_is_unreadable():
    with pytest.raises(Unreadable, match="no rail with current and voltage in 'error=1"):
        PmicEnergy(lambda _: 'error=1 error_msg="Command not registered"').start()


def test_vcgencmd_that_is_absent_or_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unreadable, match="not installed"):
        vcgencmd("pmic_read_adc")
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho VCHI initialization failed >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Unreadable, match="vcgencmd pmic_read_adc: VCHI initialization failed"):
        vcgencmd("pmic_read_adc")
    program.write_text('#!/bin/sh\necho "answer to $1"\n')
    assert vcgencmd("get_throttled") == "answer to get_throttled\n"


class FakeNvml:
    """The few NVML functions we call, on one GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, counter=True, power=True):
        self.counter, self.power, self.mj, self.mw = counter, power, 5_000, 70_000

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self.mj

    def nvmlDeviceGetPowerUsage(self, handle):
        if not self.power:
            raise self.NVMLError("Not Supported")
        return self.mw


def test_nvml_energy_is_the_difference_of_the_counter():
    nvml = FakeNvml()
    meter = NvmlEnergy(open_gpu("cuda", nvml, "GPU-1"))
    meter.start()
    meter.sample()
    nvml.mj += 2_500
    reading = meter.stop()
    assert reading.joules == pytest.approx(2.5)
    assert (reading.source, reading.scope) == ("nvml_counter", "gpu GPU-1")


def test_nvml_counter_that_stands_still_is_not_zero_joules():
    meter = NvmlEnergy(Gpu(FakeNvml(), "handle", "GPU-1"))
    meter.start()
    with pytest.raises(Unreadable, match="moved by 0 mJ"):
        meter.stop()


def test_nvml_without_a_counter_integrates_power():
    clock = Clock()
    meter = NvmlEnergy(Gpu(FakeNvml(counter=False), "handle", "GPU-1"), clock)
    meter.start()
    for _ in range(4):
        clock.now_s += 0.5
        meter.sample()
    reading = meter.stop()
    assert reading.joules == pytest.approx(140.0)
    assert reading.source == "nvml_power"


def test_nvml_with_neither_counter_nor_power_is_unreadable():
    with pytest.raises(Unreadable, match="power: Not Supported"):
        NvmlEnergy(Gpu(FakeNvml(counter=False, power=False), "handle", "GPU-1")).start()


def test_a_gpu_that_nvml_does_not_know_is_unreadable():
    with pytest.raises(Unreadable, match="nvml: Not Found"):
        open_gpu("cuda", FakeNvml(), "GPU-2")


def test_nvml_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(Unreadable, match="install nvidia-ml-py"):
        open_gpu("cuda")


def test_the_gpu_of_a_torch_device_is_found_by_its_uuid(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(uuid="1"))
    assert open_gpu("cuda:3", FakeNvml()).uuid == "GPU-1"


def test_an_estimate_is_marked_and_never_counts_more_than_the_interval_as_busy():
    reading = estimated_energy(idle_w=2.5, busy_w=6.5, duration_s=10.0, busy_s=4.0)
    assert reading.joules == pytest.approx(25.0 + 16.0)
    assert reading.estimated
    assert estimated_energy(2.5, 6.5, 10.0, 11.0).joules == pytest.approx(65.0)


def measured(joules, scope="package"):
    return Usage(energy_j=joules, energy_source="x", energy_scope=scope, energy_estimated=False)


def test_workers_that_read_the_same_meter_are_counted_once():
    assert total_energy([("a", measured(5.0)), ("a", measured(5.5))]) == (5.5, False, "package")
    assert total_energy([("a", measured(5.0)), ("b", measured(5.5))]) == (10.5, False, "package")
    assert total_energy([("a", measured(5.0)), ("a", measured(7.0, "gpu GPU-1"))]) is None


def test_energy_of_unlike_things_is_no_sum():
    board, gpu, package = measured(5.0, "board"), measured(60.0, "gpu GPU-1"), measured(7.0)
    for unlike in ([("a", board), ("b", gpu)], [("a", board), ("b", package)], [("a", package), ("b", gpu)]):
        assert total_energy(unlike) is None
    assert total_energy([("a", gpu), ("b", measured(1.0, "gpu GPU-2"))]) == (61.0, False, "gpu")


def test_estimates_all_count_and_make_the_sum_an_estimate():
    guess = Usage(energy_j=2.0, energy_source="device_file", energy_scope="device", energy_estimated=True)
    assert total_energy([("a", guess), ("a", guess), ("b", measured(1.0, "board"))]) == (5.0, True, "device")


def test_a_device_that_does_not_tell_leaves_no_total():
    assert total_energy([("a", measured(5.0)), ("b", Usage())]) is None
