"""Real worker processes: pipelines over every backend, stage-only weights, and every way to lose one."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from typing import get_args

import psutil
import pytest

from pplib import limits
from pplib.config import Backend, configuration
from pplib.devices import Device, Testbed
from pplib.errors import HandshakeError, WorkerError
from pplib.links import WIRES, wire_parts
from pplib.pipeline.coordinator.client import WorkerClient, WorkerLost
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire.connection import endpoint_of
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.sweep.experiment import prepare
from pplib.testbed.workers.local import WORKERS
from tests.helpers.local_workers import local_workers

BACKENDS = get_args(Backend)
TOKEN = secrets.token_bytes(32)
TINY = {"model": "tests.helpers.models:tiny", "num_images": 8, "batch_size": 2, "in_flight": 2}


@contextlib.contextmanager
def coordinator(devices, backends=("socket",), **changes):
    testbed = Testbed(devices=devices, **changes)
    with local_workers(testbed, TOKEN, backends) as started:
        clients = [WorkerClient(r.name, r.control, TOKEN, w.autopsy) for w, r in started]
        with Coordinator(clients) as pipeline:
            pipeline.started = started
            yield pipeline


@pytest.fixture(scope="module")
def two_workers():
    """Workers that stay up for all tests that leave them whole."""
    with coordinator([Device(name="a"), Device(name="b")], BACKENDS) as pipeline:
        yield pipeline


@pytest.mark.parametrize("backend", ["rpc", "gloo"])
def test_pytorch_joins_workers_at_loopback_addresses_that_no_interface_names(backend):
    devices = [Device(name="a", data_host="127.0.0.2"), Device(name="b", data_host="127.0.0.3")]
    experiment = prepare(configuration(TINY))
    with coordinator(devices, (backend,)) as pipeline:
        _, result = run(pipeline, experiment, (2,), backend)
        assert experiment.check_outputs(result.outputs).max_abs_err < 1e-4


def exactly(count):
    return Length(count, count)


def run(pipeline, experiment, points, backend="socket"):
    plan = experiment.plan(points)
    pipeline.put_inputs(experiment.inputs, experiment.input_spec)
    pipeline.open(backend)
    prepared = pipeline.prepare(plan)
    return prepared, pipeline.run(plan, exactly(1 + len(experiment.batches)), 60)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_cut_of_a_model_computes_the_model_over_real_workers(two_workers, backend):
    experiment = prepare(configuration(TINY))
    for points in experiment.points:
        _, result = run(two_workers, experiment, points, backend)
        assert len(result.outputs) == 5
        assert experiment.check_outputs(result.outputs).max_abs_err < 1e-4
        activation = experiment.plan(points).tensors[1].num_bytes
        assert activation < result.payload_bytes[0] < activation + 2000


@pytest.mark.parametrize("optimize", [True, False])  # channels_last and contiguous
def test_every_wire_carries_fewer_bytes_and_outputs_stay_near_on_every_backend(two_workers, optimize):
    for wire in WIRES[1:]:
        experiment = prepare(configuration({**TINY, "wire": wire, "optimize": optimize, "partition_points": [2]}))
        plan = experiment.plan((2,))
        for backend in BACKENDS:
            _, result = run(two_workers, experiment, (2,), backend)
            largest = max(float(one.abs().max()) for one in experiment.references)
            kind, compression = wire_parts(wire)
            limit = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}[kind] * max(1.0, largest)
            assert experiment.check_outputs(result.outputs).max_abs_err <= limit
            factor = {"float32": 1, "float16": 2, "int8": 4}[kind]
            carried = plan.tensors[1].num_bytes / factor
            least = 0 if compression else carried
            assert least < result.payload_bytes[0] < carried * 1.01 + 2000
            before, after = result.timelines
            assert len(before.encode_s) == len(after.decode_s) == len(before.send_start_s)
            assert before.decode_s == after.encode_s == []
            for i in range(len(before.encode_s)):
                assert before.compute_end_s[i] + before.encode_s[i] <= before.send_start_s[i]
                assert after.received_s[i] + after.decode_s[i] <= after.compute_start_s[i]


def test_three_stages_encode_on_both_hops_and_the_result_comes_back_as_it_is():
    chosen = {"num_stages": 3, "partition_points": [[1, 3]], "wire": "int8+lz4"}
    experiment = prepare(configuration({**TINY, **chosen, "devices": "params/devices/local3.yaml"}))
    with coordinator([Device(name=name, prefetch=1) for name in "abc"], BACKENDS) as pipeline:
        for backend in BACKENDS:
            _, result = run(pipeline, experiment, (1, 3), backend)
            experiment.check_outputs(result.outputs)
            assert [bool(one.encode_s) for one in result.timelines] == [True, True, False]
            assert [bool(one.decode_s) for one in result.timelines] == [False, True, True]


def test_workers_and_their_groups_stay_up_across_partition_points_and_backends(two_workers):
    experiment = prepare(configuration(TINY))
    pids = [worker.pid for worker, _ in two_workers.started]
    for backend in (*BACKENDS, *BACKENDS):
        _, result = run(two_workers, experiment, (2,), backend)
        experiment.check_outputs(result.outputs)
    assert [worker.pid for worker, _ in two_workers.started] == pids
    assert all(psutil.Process(pid).is_running() for pid in pids)


def test_three_stages_compute_the_model_on_every_backend():
    chosen = {"num_stages": 3, "partition_points": [[0, 0], [1, 3], [4, 4]]}
    experiment = prepare(configuration({**TINY, **chosen, "devices": "params/devices/local3.yaml"}))
    with coordinator([Device(name=name) for name in "abc"], BACKENDS) as pipeline:
        for backend in BACKENDS:
            for points in experiment.points:
                _, result = run(pipeline, experiment, points, backend)
                assert experiment.check_outputs(result.outputs).max_abs_err < 1e-4
                assert len(result.timelines) == 3


def test_a_worker_holds_only_the_tensors_of_its_stage():
    """VGG16 has 553 MB of weights; the stage before P3 has 39 thousand parameters of them."""
    config = {"model": "vgg16", "num_images": 2, "batch_size": 1, "partition_points": [3], "in_flight": 1}
    experiment = prepare(configuration(config))
    with coordinator([Device(name="small"), Device(name="large")]) as pipeline:
        before = [psutil.Process(worker.pid).memory_info().rss for worker, _ in pipeline.started]
        prepared, result = run(pipeline, experiment, (3,))
        experiment.check_outputs(result.outputs)
    assert prepared[0].param_bytes == (64 * 27 + 64 + 64 * 64 * 9 + 64) * 4
    assert prepared[1].param_bytes > 550e6
    small, large = (
        after - start
        for after, start in zip((usage.resident_peak_bytes for usage in result.usages), before, strict=True)
    )
    assert small < 300e6, "activations, torchvision and the framework's own growth, not weights"
    assert large > 500e6


def test_a_device_that_pretends_to_be_slow_takes_longer_and_says_so(two_workers):
    experiment = prepare(configuration({**TINY, "partition_points": [4]}))
    with coordinator([Device(name="slow", slowdown=20.0), Device(name="b")]) as pipeline:
        _, slow = run(pipeline, experiment, (4,))
    _, fast = run(two_workers, experiment, (4,))

    def total(result):
        stage = result.timelines[0]
        return sum(stage.compute_end_s) - sum(stage.compute_start_s)

    assert total(slow) > 4 * total(fast)


def test_prefetch_means_the_same_on_every_backend():
    """The second device is slow and has room for one: the first may send only when that one is done with."""
    experiment = prepare(configuration({**TINY, "partition_points": [2], "in_flight": 4}))
    with coordinator([Device(name="a"), Device(name="b", slowdown=30.0, prefetch=0)], BACKENDS) as pipeline:
        for backend in BACKENDS:
            for _ in range(2):  # what was granted in one trial is not left over for the next
                _, result = run(pipeline, experiment, (2,), backend)
                experiment.check_outputs(result.outputs)
                first, second = result.timelines
                assert all(
                    sent >= freed for sent, freed in zip(first.send_start_s[1:], second.send_start_s, strict=False)
                )


@pytest.mark.parametrize("backend", ["socket", "gloo"])
def test_a_killed_worker_fails_the_run_within_seconds_and_is_named(backend):
    experiment = prepare(configuration({**TINY, "partition_points": [2]}))
    with coordinator([Device(name="a"), Device(name="b", slowdown=3000.0)], (backend,)) as pipeline:
        victim, plan = pipeline.started[1][0].pid, experiment.plan((2,))
        pipeline.put_inputs(experiment.inputs, experiment.input_spec)
        pipeline.open(backend)
        pipeline.prepare(plan)
        threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
        begun = time.monotonic()
        with pytest.raises(WorkerLost, match=r"^b: .*the worker died or its network did: signal 9"):
            pipeline.run(plan, exactly(50), 60)
        assert time.monotonic() - begun < 30
        assert [one.device for one in pipeline.failed_run.timelines] == ["a"], "what the other one saw is kept"
        assert pipeline.failed_run.usages[1] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_a_run_that_was_given_up_the_next_one_is_right(backend, monkeypatch):
    monkeypatch.setattr(limits, "EVIDENCE_S", 30.0)  # others run beside this test
    experiment = prepare(configuration({**TINY, "partition_points": [2]}))
    plan = experiment.plan((2,))
    with coordinator([Device(name="a"), Device(name="b", slowdown=2000.0)], BACKENDS) as pipeline:
        pipeline.put_inputs(experiment.inputs, experiment.input_spec)
        pipeline.open(backend)
        pipeline.prepare(plan)
        with pytest.raises(WorkerError, match=r"not done within 1 s|given up|closed"):
            pipeline.run(plan, exactly(50), 1.0)
        seen = pipeline.failed_run
        assert [one.device for one in seen.timelines] == ["a", "b"]
        assert len(seen.timelines[0].compute_end_s) >= 1
        assert all(usage.duration_s > 0 for usage in seen.usages)
        pipeline.open(backend)
        pipeline.prepare(plan)
        result = pipeline.run(plan, exactly(2), 60)
        assert experiment.check_outputs(result.outputs).max_abs_err < 1e-4


def test_a_worker_of_another_version_is_refused_with_both_versions():
    code = (
        "import pplib, sys; pplib.__version__ = '0.0.1'; "
        "from pplib.pipeline.worker.command_line import main; main(('socket',))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(WorkerSettings(name="old", token=TOKEN).line)
        process.stdin.flush()
        control = endpoint_of(json.loads(process.stdout.readline())["control"])
        with pytest.raises(HandshakeError, match=r"old: runs ParetoPipe '0\.0\.1'.*install the same version on both"):
            WorkerClient("old", control, TOKEN)
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_a_worker_of_another_run_is_not_usable(two_workers):
    control = two_workers.started[0][1].control
    with pytest.raises(WorkerError, match=r"a: .*: no handshake with the worker at .*: .* belongs to another run"):
        WorkerClient("a", control, b"another token of 32 bytes length")


def test_a_second_coordinator_is_told_that_the_worker_is_taken(two_workers):
    control = two_workers.started[0][1].control
    with pytest.raises(WorkerError, match="a: another coordinator is using this worker"):
        WorkerClient("a", control, TOKEN)


def test_a_port_in_use_stops_the_start_with_the_way_out(two_workers):
    port = two_workers.workers[0].description.data_port
    testbed = Testbed(devices=[Device(name="c", data_port=port), Device(name="d")])
    with (
        pytest.raises(WorkerError, match=rf"c: the worker did not start: .*cannot listen on 127\.0\.0\.1:{port}"),
        local_workers(testbed, TOKEN, ["socket"]),
    ):
        pass


def test_weights_that_are_gone_fail_the_stage_with_their_place(two_workers):
    experiment = prepare(configuration({**TINY, "partition_points": [2], "seed": 7}))
    experiment.weights.path.unlink()
    with pytest.raises(WorkerError, match=r"(a|b): weights .*: not on this device: looked for .*set PARETOPIPE_CACHE"):
        run(two_workers, experiment, (2,))


def test_stages_of_unlike_plans_never_run_together(two_workers):
    """Two stages whose weights come from different sources: the second plan is not the one prepared."""
    one, other = (prepare(configuration({**TINY, "partition_points": [2], "seed": seed})) for seed in (1, 2))
    assert one.plan((2,)).digest != other.plan((2,)).digest
    two_workers.put_inputs(one.inputs, one.input_spec)
    two_workers.open("socket")
    two_workers.prepare(one.plan((2,)))
    with pytest.raises(WorkerError, match="asked to run a plan that this worker has not prepared"):
        two_workers.run(other.plan((2,)), exactly(3), 30)
    _, result = run(two_workers, one, (2,))
    one.check_outputs(result.outputs)


def test_a_socket_worker_offers_sockets_alone():
    with coordinator([Device(name="a"), Device(name="b")]) as pipeline:
        for other in ("rpc", "gloo"):
            with pytest.raises(WorkerError, match=rf"this worker offers socket, not {other}"):
                pipeline.open(other)
        assert pipeline.workers[0].description.backends == ("socket",)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import sys, time\n"
        "from pplib.devices import Device, Testbed\n"
        "from tests.helpers.local_workers import local_workers\n"
        "with local_workers(Testbed(devices=[Device(name='a'), Device(name='b')]), b't' * 32, ['socket']) as started:\n"
        "    print(*(worker.pid for worker, _ in started), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    parent.stdin.close()
    parent.stdout.close()


def test_a_worker_needs_no_library_of_the_notebooks_and_pytorch_only_for_stages_of_its_own():
    code = (
        "import sys, pplib.pipeline.worker.worker, pplib.pipeline.worker.command_line\n"
        "heavy = {'pandas', 'altair', 'papermill', 'fabric', 'IPython', 'jupyterlab', 'ipywidgets', 'moocore'}\n"
        "heavy |= {'torch', 'torchvision', 'safetensors', 'PIL', 'onnxruntime', 'openvino'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "[]"


def test_the_token_is_in_no_argument_and_no_environment_of_a_worker(two_workers):
    for worker, _ in two_workers.started:
        process = psutil.Process(worker.pid)
        seen = " ".join(process.cmdline()) + repr(process.environ())
        for secret in (TOKEN.hex(), base64.b64encode(TOKEN).decode()):
            assert secret not in seen
            assert secret not in worker.log.read_text()


def test_entry_scripts_stay_short():
    for script in WORKERS.glob("*_worker.py"):
        assert len(script.read_text().splitlines()) <= 40


@pytest.mark.gpu
@pytest.mark.parametrize("order", [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_a_gpu_stage_computes_the_model(order):
    experiment = prepare(configuration({**TINY, "partition_points": [2]}))
    with coordinator([Device(name=f"d{i}", torch_device=one) for i, one in enumerate(order)]) as pipeline:
        _, result = run(pipeline, experiment, (2,))
        experiment.check_outputs(result.outputs)
        gpu = result.timelines[order.index("cuda:0")]
        assert all(copied > 0 for copied in gpu.copy_s)
