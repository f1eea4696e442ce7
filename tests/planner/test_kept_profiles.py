"""Profiles on disk: used again, refused, and never lost."""

from __future__ import annotations

import re

import msgspec
import pytest

from pplib.errors import OutputError
from pplib.planner.profiles.device_profile import DeviceProfile, TimedStage
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.profiles.kept import SCHEMA_VERSION, find_profile, keep_profile, profile_path, read_profile
from pplib.records import HALF

ASKED = {"name": "pi", "model": "m", "threads": 1}
FOUND = {"cpu": "Cortex-A72", "memory_gb": 4, "runtime_version": "2.13"}


def device(found=FOUND, asked=ASKED, took_s=1.0):
    stages = [TimedStage(first=0, last=1, rounds_s=[0.1, 0.2])]
    about = {"name": "pi", "asked": asked, "found": found, "began": "2026-01-01", "took_s": took_s}
    return DeviceProfile(**about, stages=stages, activation_bytes=[10, 20])


def find(folder, asked=ASKED, found=FOUND):
    return find_profile(folder, DeviceProfile, "pi", asked, found)


def test_a_profile_is_found_by_what_determines_it_and_by_nothing_else(tmp_path):
    assert find(tmp_path / "none") is None
    path = keep_profile(tmp_path, device())
    assert find(tmp_path) == read_profile(path, DeviceProfile) == device()
    assert find(tmp_path, asked={**ASKED, "threads": 2}) is None
    assert path == profile_path(tmp_path, "pi", dict(reversed(ASKED.items())), FOUND), "in whatever order"


def test_a_device_that_is_no_longer_what_it_was_is_told_with_the_difference(tmp_path):
    keep_profile(tmp_path, device())
    now = {**FOUND, "runtime_version": "2.14"}
    with pytest.raises(OutputError, match=r"pi as it is no longer: runtime_version: '2\.13' there, '2\.14' now: `--fr"):
        find(tmp_path, found=now)
    with pytest.raises(OutputError, match="gpu: None there, 'H100' now"):
        find(tmp_path, found={**FOUND, "gpu": "H100"})
    keep_profile(tmp_path, device(now))
    assert find(tmp_path, found=now) == device(now)
    assert find(tmp_path) == device(), "what it was is kept, too"


def test_another_measurement_of_the_same_takes_the_place_of_the_older(tmp_path):
    keep_profile(tmp_path, device())
    keep_profile(tmp_path, device(took_s=2.0))
    assert find(tmp_path).took_s == 2.0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"name": "pi"}'])
def test_a_file_that_is_no_profile_is_told_and_left_alone(tmp_path, content):
    path = keep_profile(tmp_path, device())
    path.write_bytes(content)
    for attempt in (lambda: find(tmp_path), lambda: keep_profile(tmp_path, device())):
        with pytest.raises(OutputError, match=f"{re.escape(str(path))}: not a profile: .*: move it away"):
            attempt()
    with pytest.raises(OutputError, match="not a profile"):
        find(tmp_path, found={**FOUND, "cpu": "another"})
    assert path.read_bytes() == content


def test_a_profile_of_another_schema_is_told_and_left_alone(tmp_path):
    newer = msgspec.structs.replace(device(), schema_version=SCHEMA_VERSION + 1)
    path = profile_path(tmp_path, "pi", ASKED, FOUND)
    path.write_bytes(msgspec.json.encode(newer))
    with pytest.raises(OutputError, match=f"schema version {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"):
        find(tmp_path)


def test_what_a_killed_process_was_writing_is_no_profile(tmp_path):
    path = profile_path(tmp_path, "pi", ASKED, FOUND)
    (tmp_path / f".{path.name}.abc{HALF}").write_bytes(b"{")
    assert find(tmp_path) is None


def test_the_profile_of_a_hop_comes_back_as_it_was(tmp_path):
    line = Line(fixed_s=1e-4, per_byte_s=1e-9, log_sd=0.02)
    hop = HopProfile(
        name="a-b",
        asked={"backend": "socket"},
        found={},
        began="",
        took_s=1.0,
        transfer=line,
        encode=None,
        decode=None,
        back=line,
        num_bytes=[1, 2],
        payload_bytes=[1.0, 2.0],
        rounds_s={"transfer": [[0.1], [0.2]]},
    )
    keep_profile(tmp_path, hop)
    assert find_profile(tmp_path, HopProfile, "a-b", {"backend": "socket"}, {}) == hop
