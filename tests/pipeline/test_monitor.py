"""The monitor: what it sees of this process, of fake machines, and of sources that fail."""

from __future__ import annotations

import socket
import threading
import time
from collections import namedtuple
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from pplib.pipeline.monitor.disturbance import SuspendGauge, SwapGauge, disturbance
from pplib.pipeline.monitor.energy import RaplEnergy
from pplib.pipeline.monitor.gauges import (
    CoreGauge,
    GpuGauge,
    NetworkGauge,
    ProcessGauge,
    TemperatureGauge,
    ThrottleGauge,
)
from pplib.pipeline.monitor.monitor import Monitor
from pplib.pipeline.monitor.sources import Gpu, Unreadable, swapped_bytes
from pplib.pipeline.monitor.usage import Usage

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")


class Fake:
    """A gauge and a meter that counts its calls and fails where told."""

    def __init__(self, name="fake", fails=None, fields=None):
        self.name, self.fails, self.fields, self.calls = name, fails, fields or {}, []

    def _call(self, what):
        self.calls.append(what)
        if self.fails == what:
            raise OSError(f"{what} went wrong")

    def start(self):
        self._call("start")

    def sample(self):
        self._call("sample")

    def finish(self, duration_s):
        self._call("finish")
        return self.fields

    def stop(self):
        self._call("stop")
        raise Unreadable("says nothing")


def wait_for(condition, limit_s=10.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def spin(cpu_s):
    """Keep one thread busy for so much CPU time of its own."""
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def test_a_busy_thread_shows_as_cpu_time_of_the_process_and_of_some_core():
    with Monitor(interval_s=0.05) as monitor:
        busy = threading.Thread(target=spin, args=(0.4,))
        busy.start()
        busy.join()
    usage = monitor.usage()
    assert usage.process_cpu_fraction * usage.duration_s == pytest.approx(0.4, abs=0.15)
    assert len(usage.cpu_fraction_by_core) == psutil.cpu_count()
    assert all(0 <= fraction <= 1 for fraction in usage.cpu_fraction_by_core)
    assert sum(usage.cpu_fraction_by_core) * usage.duration_s > 0.2
    assert usage.resident_peak_bytes >= usage.resident_mean_bytes > 1e6
    assert usage.samples >= 1


@pytest.mark.alone
def test_the_monitor_reports_its_own_cost_and_ends_its_thread():
    with Monitor(interval_s=0.05) as monitor:
        assert monitor._thread.is_alive()
        wait_for(lambda: monitor.samples >= 3)
    assert not monitor._thread.is_alive()
    assert 0 < monitor.usage().monitor_cost < 0.2


def test_an_expensive_source_is_sampled_less_often():
    class Expensive(Fake):
        def sample(self):
            spin(0.002)

    with Monitor(interval_s=0.001, gauges=[Expensive()], meters=[]) as monitor:
        wait_for(lambda: monitor.samples >= 2)  # 2 ms of CPU are allowed every 0.4 s
    usage = monitor.usage()
    assert usage.duration_s > 0.3
    assert usage.samples <= 2 + usage.duration_s / 0.3


def test_usage_travels_as_json_and_as_msgpack():
    with Monitor(interface="lo") as monitor:
        pass
    usage = monitor.usage()
    assert msgspec.json.decode(msgspec.json.encode(usage), type=Usage) == usage
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(usage), type=Usage) == usage


def test_an_error_inside_the_block_passes_and_the_thread_ends():
    monitor = Monitor(gauges=[], meters=[])
    with pytest.raises(KeyError, match="mine"), monitor:
        raise KeyError("mine")
    assert not monitor._thread.is_alive()


@pytest.mark.parametrize("where", ["start", "sample", "finish"])
def test_a_source_that_raises_is_noted_and_the_others_go_on(where):
    bad, good = Fake("bad", where, {"temperature_c": 1.0}), Fake("good", None, {"throttled": False})
    with Monitor(interval_s=0.001, gauges=[bad, good], meters=[]) as monitor:
        wait_for(lambda: monitor.samples >= 2)
    usage = monitor.usage()
    assert f"bad: OSError: {where} went wrong" in usage.notes
    assert usage.temperature_c is None
    assert usage.throttled is False
    assert bad.calls.count(where) == 1


@pytest.mark.parametrize("where", ["start", "sample", "stop"])
def test_a_meter_that_fails_leaves_an_estimate_or_nothing(where):
    with Monitor(0.001, idle_w=2.0, busy_w=6.0, gauges=[], meters=[Fake("rapl", where)]) as monitor:
        wait_for(lambda: monitor.samples >= 2)
    usage = monitor.usage(busy_s=0.0)
    assert usage.energy_j == pytest.approx(2.0 * usage.duration_s)
    assert (usage.energy_source, usage.energy_estimated) == ("device_file", True)
    assert f"energy: rapl: OSError: {where} went wrong" in usage.notes
    assert monitor.usage().energy_j is None


def test_without_meter_and_device_file_there_is_no_energy():
    with Monitor(gauges=[], meters=[]) as monitor:
        pass
    usage = monitor.usage(busy_s=1.0)
    assert usage.energy_j is usage.energy_source is usage.energy_estimated is None
    assert usage.notes == ["energy: no estimate: the device file gives no idle_w and busy_w"]


def test_the_first_meter_that_starts_is_used(tmp_path):
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "0"), ("max_energy_range_uj", "1000000")):
        (folder / name).write_text(text)
    last = Fake("last")
    with Monitor(gauges=[], meters=[Fake("first", "start"), RaplEnergy(tmp_path), last]) as monitor:
        (folder / "energy_uj").write_text("750000")
    usage = monitor.usage()
    assert usage.energy_j == pytest.approx(0.75)
    assert (usage.energy_source, usage.energy_scope, usage.energy_estimated) == ("rapl", "package", False)
    assert last.calls == []


def test_an_emulated_device_has_only_an_estimate():
    meter = Fake()
    with Monitor(emulated=True, idle_w=1.0, busy_w=2.0, gauges=[], meters=[meter]) as monitor:
        pass
    assert meter.calls == []
    assert monitor.usage(busy_s=0.0).energy_source == "device_file"


def test_a_source_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr("pplib.limits.THREAD_JOIN_S", 0.05)
    inside, let_go = threading.Event(), threading.Event()

    class Hanging(Fake):
        def sample(self):
            inside.set()
            let_go.wait(10)
            raise OSError("too late")

    with Monitor(0.001, gauges=[Hanging(fields={"temperature_c": 1.0})], meters=[]) as monitor:
        assert inside.wait(10)
    let_go.set()
    wait_for(lambda: not monitor._thread.is_alive())
    assert monitor.usage().temperature_c is None
    assert "did not answer within 0.05 s" in monitor.usage().notes[0]


def test_usage_before_the_end_is_refused():
    monitor = Monitor(gauges=[], meters=[])
    with pytest.raises(RuntimeError, match="after the monitor's with block"):
        monitor.usage()


def test_busy_share_of_a_core_leaves_out_waiting_stolen_and_guest_time():
    reads = iter([[Times(*[0] * 10)], [Times(2, 0, 1, 4, 1, 0, 1, 1, 2, 0)]])
    gauge = CoreGauge(lambda: next(reads), lambda: [0])
    gauge.start()
    assert gauge.finish(1.0) == {
        "cpu_fraction_by_core": [pytest.approx(4 / 10)],
        "steal_fraction": pytest.approx(1 / 10),
    }


def test_time_lost_to_other_guests_is_that_of_the_cores_one_may_use():
    idle, lost = Times(0, 0, 0, 10, 0, 0, 0, 0, 0, 0), Times(0, 0, 0, 6, 0, 0, 0, 4, 0, 0)
    for cores, steal in (([0], 0.0), ([1], 0.4), ([0, 1], 0.2), ([7], None)):
        reads = iter([[Times(*[0] * 10)] * 2, [idle, lost]])
        gauge = CoreGauge(lambda reads=reads: next(reads), lambda cores=cores: cores)
        gauge.start()
        assert gauge.finish(1.0)["steal_fraction"] == (None if steal is None else pytest.approx(steal))


def test_swapping_and_suspension_are_differences_of_counters():
    swapped = iter([12, 8208])
    ahead = iter([100.0, 130.5])
    for gauge, told in (
        (SwapGauge(lambda: next(swapped)), {"swapped_bytes": 8196}),
        (SuspendGauge(lambda: next(ahead)), {"suspended_s": 30.5}),
    ):
        gauge.start()
        gauge.sample()
        assert gauge.finish(1.0) == told


def test_pages_of_swap_count_as_large_as_they_are(tmp_path):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 7\npswpin 60\npswpout 40\npgfault 9\n")
    assert swapped_bytes(counters, 16384) == 1_638_400
    for content in ("nr_free_pages 7\n", "pswpin 60\n"):
        counters.write_text(content)
        with pytest.raises(Unreadable, match="expected pswpin and pswpout"):
            swapped_bytes(counters)


def test_what_disturbs_a_device_is_told_and_what_is_usual_is_not():
    usual = Usage(throttled=False, steal_fraction=0.03, swapped_bytes=8192, suspended_s=0.0001)
    assert disturbance(usual) == disturbance(Usage()) == ""
    for fields, words in (
        ({"throttled": True}, "throttled"),
        ({"steal_fraction": 0.2}, "20 % of its time lost to other guests of its host"),
        ({"swapped_bytes": 12_300_000}, "12.3 MB swapped"),
        ({"suspended_s": 30.5, "throttled": True}, "throttled, suspended for 30.5 s"),
    ):
        assert disturbance(Usage(**fields)) == words


@pytest.mark.parametrize(
    ("after", "duration_s", "match"),
    [
        ([Times(*[0] * 10)], 1.0, "counted no time"),
        ([Times(*[1] * 10)] * 2, 1.0, "1 cores became 2"),
        ([Times(*[1] * 10)], 0.1, "too short"),
    ],
)
def test_core_shares_that_mean_nothing_are_refused(after, duration_s, match):
    reads = iter([[Times(*[0] * 10)], after])
    gauge = CoreGauge(lambda: next(reads))
    gauge.start()
    with pytest.raises(Unreadable, match=match):
        gauge.finish(duration_s)


def test_resident_memory_has_the_peak_and_the_mean_of_its_samples():
    reads = iter([10, 60, 20])
    gauge = ProcessGauge(lambda: next(reads))
    gauge.start()
    gauge.sample()
    fields = gauge.finish(1.0)
    assert (fields["resident_peak_bytes"], fields["resident_mean_bytes"]) == (60, 30.0)


def test_bytes_of_the_named_interface_are_counted():
    reads = iter(
        [{"eth0": SimpleNamespace(bytes_recv=5, bytes_sent=7)}, {"eth0": SimpleNamespace(bytes_recv=9, bytes_sent=17)}]
    )
    gauge = NetworkGauge("eth0", lambda: next(reads))
    gauge.start()
    assert gauge.finish(1.0) == {"interface": "eth0", "received_bytes": 4, "sent_bytes": 10}


@pytest.mark.skipif("lo" not in psutil.net_if_stats(), reason="no interface named lo")
def test_what_crosses_a_real_interface_is_counted_on_it():
    sent_bytes = 300_000
    with (
        Monitor(interface="lo", meters=[]) as monitor,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as here,
        server.accept()[0] as there,
    ):
        sender = threading.Thread(target=here.sendall, args=(bytes(sent_bytes),))
        sender.start()
        left = sent_bytes
        while left:
            left -= len(there.recv(65536))
        sender.join()
    usage = monitor.usage()
    assert usage.interface == "lo"
    assert usage.received_bytes >= sent_bytes
    assert usage.sent_bytes >= sent_bytes


def test_an_unknown_interface_names_the_known_ones():
    with pytest.raises(Unreadable, match=r"no interface 'wlan9': there are eth0, lo"):
        NetworkGauge("wlan9", lambda: {"lo": None, "eth0": None}).start()


def thermal(root, zones):
    for i, (kind, temp) in enumerate(zones):
        folder = root / "class" / "thermal" / f"thermal_zone{i}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{temp}\n")


def test_temperature_is_the_highest_of_the_cpus_zones(tmp_path):
    thermal(tmp_path, [("acpitz", 99_000), ("cpu-thermal", 48_300)])
    gauge = TemperatureGauge(tmp_path)
    gauge.start()
    thermal(tmp_path, [("acpitz", 99_000), ("cpu-thermal", 61_200)])
    gauge.sample()
    thermal(tmp_path, [("acpitz", 99_000), ("cpu-thermal", 55_000)])
    assert gauge.finish(1.0) == {"temperature_c": pytest.approx(61.2)}


def test_a_machine_without_a_cpu_zone_has_no_temperature(tmp_path):
    thermal(tmp_path, [("acpitz", 99_000)])
    with pytest.raises(Unreadable, match="no thermal zone of the CPU"):
        TemperatureGauge(tmp_path).start()


@pytest.mark.parametrize(
    ("values", "throttled", "flags"),
    [
        (["0", "0", "0"], False, []),
        (["50000", "50000", "50000"], False, []),  # long ago
        (["0", "50005", "50000"], True, ["throttled", "under_voltage"]),
        (["0", "0", "80000"], True, ["soft_temperature_limit"]),  # between two samples
        (["10000", "10001", "10000"], False, ["under_voltage"]),
    ],
)
@pytest.mark.parametrize("folder", ["soc/soc:firmware", "soc@107c000000:firmware"])
def test_throttling_is_what_was_on_or_appeared_in_the_interval(tmp_path, folder, values, throttled, flags):
    file = tmp_path / "devices" / "platform" / folder / "get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(values[0])
    gauge = ThrottleGauge(tmp_path, command=None)
    gauge.start()
    file.write_text(values[1])
    gauge.sample()
    file.write_text(values[2])
    assert gauge.finish(1.0) == {"throttled": throttled, "throttle_flags": flags}


@pytest.mark.parametrize(
    ("before", "after", "throttled", "flags"),
    [
        ("0x0", "0x0", False, []),
        ("0x0", "0x50000", True, ["throttled", "under_voltage"]),
        ("0x50005", "0x50005", True, ["throttled", "under_voltage"]),
        ("0x50000", "0x50000", None, []),
    ],
)
def test_the_firmware_is_asked_at_both_ends_where_the_kernel_has_no_file(tmp_path, before, after, throttled, flags):
    answers = iter([f"throttled={before}\n", f"throttled={after}\n"])
    gauge = ThrottleGauge(tmp_path, lambda question: next(answers))
    gauge.start()
    gauge.sample()
    assert gauge.finish(1.0) == {"throttled": throttled, "throttle_flags": flags}


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self, readings, power=True):
        self.readings, self.power, self.at = readings, power, 0

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=self.readings[self.at][0])

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=self.readings[self.at][1])

    def nvmlDeviceGetPowerUsage(self, handle):
        mw = self.readings[self.at][2]
        self.at += 1
        if not self.power:
            raise self.NVMLError("Not Supported")
        return mw


@pytest.mark.parametrize("power", [True, False])
def test_gpu_shares_leave_out_the_reading_from_before_the_interval(power):
    nvml = FakeNvml([(90, 100, 1_000), (50, 300, 60_000), (70, 200, 80_000)], power)
    gauge = GpuGauge(lambda: Gpu(nvml, "handle", "GPU-1"))
    gauge.start()
    gauge.sample()
    fields = gauge.finish(1.0)
    assert fields["gpu_fraction"] == pytest.approx(0.6)
    assert fields["gpu_memory_bytes"] == 300
    assert fields["gpu_power_w"] == (pytest.approx(70.0) if power else None)


def test_a_gpu_that_nvml_does_not_see_is_noted_twice_and_ends_nothing(monkeypatch):
    def missing(torch_device):
        raise Unreadable("nvml: Driver Not Loaded")

    monkeypatch.setattr("pplib.pipeline.monitor.monitor.open_gpu", missing)
    with Monitor(torch_device="cuda") as monitor:
        pass
    notes = monitor.usage().notes
    assert "gpu: nvml: Driver Not Loaded" in notes
    assert "energy: nvml: nvml: Driver Not Loaded" in notes
