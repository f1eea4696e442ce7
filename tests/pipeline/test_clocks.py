"""Workers whose clocks are not ours: shifted, drifting, and asked over a path that is slower one way."""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time

import pytest

from pplib.analysis.trials.plausible import check_plausible
from pplib.analysis.trials.timeline import ALL
from pplib.config import configuration
from pplib.errors import TrialError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire.connection import endpoint_of
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.sweep.experiment import prepare

pytestmark = pytest.mark.alone

TOKEN = secrets.token_bytes(32)
TINY = {"model": "tests.helpers.models:tiny", "num_images": 8, "batch_size": 2, "in_flight": 2, "partition_points": [2]}

# A worker on a machine of its own, as far as clocks go: another boot, and a clock that shows
# SHIFT more than ours, gains DRIFT per second, and jumps by JUMP when a file appears.
OTHER_CLOCK = """
import os, sys, time
shift, drift, jump, flag = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
del sys.argv[1:5]
real, start = time.monotonic_ns, time.monotonic_ns()
def clock():
    now = real()
    return now + shift + int((now - start) * drift) + (jump if os.path.exists(flag) else 0)
time.monotonic_ns = clock
import pplib.pipeline.worker.worker
pplib.pipeline.worker.worker.boot_id = lambda: "another machine"
from pplib.pipeline.worker.command_line import main
main(("socket",))
"""


OUR_CLOCK = "from pplib.pipeline.worker.command_line import main; main(('socket',))"


@contextlib.contextmanager
def worker(name, folder, code, *settings):
    """Start a worker by running `code`; where its control connection is."""
    process = subprocess.Popen([sys.executable, "-c", code, *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(WorkerSettings(name=name, token=TOKEN, control=str(folder / name)).line)
        process.stdin.flush()
        yield endpoint_of(json.loads(process.stdout.readline())["control"])
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def detour(folder, target, out_s, back_s):
    """A Unix socket that leads to `target`, with a delay of its own each way."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(folder / "detour"))
        server.listen(1)

        def pump(source, sink, delay_s):
            line = queue.SimpleQueue()

            def deliver():
                while (entry := line.get()) is not None:
                    due, data = entry
                    time.sleep(max(0.0, due - time.monotonic()))  # the delay is what this is for
                    with contextlib.suppress(OSError):
                        sink.sendall(data)
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=deliver, daemon=True)
            thread.start()
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    line.put((time.monotonic() + delay_s, data))
            line.put(None)

        def serve():
            near, _ = server.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(target)
            ways = [(near, far, out_s), (far, near, back_s)]
            pumps = [threading.Thread(target=pump, args=way, daemon=True) for way in ways]
            for one in pumps:
                one.start()
            for one in pumps:
                one.join()
            near.close()
            far.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(folder / "detour")
        thread.join(10)


@contextlib.contextmanager
def pipeline(tmp_path, out_s=0.0, back_s=0.0, shift_s=0.0, drift=0.0, jump_s=0.0):
    """Stage 0 here, with our clock; stage 1 on another clock, its control connection over a detour."""
    near_folder, far_folder = tmp_path / "near", tmp_path / "far"
    near_folder.mkdir()
    far_folder.mkdir()
    settings = [str(round(shift_s * 1e9)), str(drift), str(round(jump_s * 1e9)), str(far_folder / "jump")]
    with (
        worker("near", near_folder, OUR_CLOCK) as here,
        worker("far", far_folder, OTHER_CLOCK, *settings) as control,
        detour(far_folder, control, out_s, back_s) as way,
    ):
        clients = [WorkerClient("near", here, TOKEN), WorkerClient("far", way, TOKEN)]
        with Coordinator(clients) as coordinator:
            experiment = prepare(configuration(TINY))
            coordinator.put_inputs(experiment.inputs, experiment.input_spec)
            coordinator.open("socket")
            plan = experiment.plan((2,))
            coordinator.prepare(plan)
            yield coordinator, plan, experiment


@pytest.mark.parametrize(("out_s", "back_s"), [(0.0, 0.0), (0.03, 0.002), (0.002, 0.03)])
def test_times_on_a_shifted_drifting_clock_are_right_within_the_stated_error(tmp_path, out_s, back_s):
    with pipeline(tmp_path, out_s, back_s, shift_s=42.0, drift=2e-4) as (coordinator, plan, experiment):
        run = coordinator.run(plan, Length(8, 8), 60)
    experiment.check_outputs(run.outputs)
    near, far = run.timelines
    assert near.clock_error_s == 0
    assert far.clock_error_s >= (out_s + back_s) / 2
    assert far.clock_error_s < (out_s + back_s) / 2 + 0.05
    assert abs(far.clock_offset_s - 42.0) < far.clock_error_s + 0.1  # it has gained a little since its start
    check_plausible(run.timelines, ALL, run.payload_bytes)
    # Both ends of each transfer, and of the way back, are on loopback: what is beyond the stated error is wrong.
    for sent, received, end, returned in zip(
        near.send_start_s, far.received_s, far.compute_end_s, run.returned_s, strict=True
    ):
        assert -far.clock_error_s <= received - sent <= far.clock_error_s + 0.5
        assert -far.clock_error_s <= returned - end <= far.clock_error_s + 0.5


def test_a_clock_that_was_set_during_a_trial_fails_it(tmp_path):
    with pipeline(tmp_path, shift_s=42.0, jump_s=3.0) as (coordinator, plan, _):
        coordinator.run(plan, Length(4, 4), 60)
        offsets = coordinator._clock_offsets

        def jump_after(first):
            def measured():
                result = first()
                (tmp_path / "far" / "jump").touch()
                return result

            return measured

        coordinator._clock_offsets = jump_after(offsets)
        with pytest.raises(TrialError, match=r"far: its clock moved by (2\.99|3\.00)\d+ s against ours"):
            coordinator.run(plan, Length(4, 4), 60)
