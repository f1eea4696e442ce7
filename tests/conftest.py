"""Shared by all tests: a cache of their own, and skips that are failures where CI says so."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import get_args

import hypothesis
import pytest

from pplib.files.late_import import put_off_slow_imports

put_off_slow_imports()
# Several tests share few cores: threads of one operation would mostly wait for each other, also in what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("ours", deadline=None)  # tests assert no speed
hypothesis.settings.load_profile("ours")

ROOT = Path(__file__).resolve().parents[1]
# Before a command that Ctrl-C is to end: tests that run in the background of a shell have SIGINT ignored.
INTERRUPTIBLE = ["env", "--default-signal=INT"]
# Who asks for one of these needs parts of the system that may be missing: it is skipped there, with the reason.
OPTIONAL_FIXTURES = {
    "browser",
    "devices_apart",
    "emulated_links",
    "remote",
    "remote_possible",
    "start_remote",
    "shared_link",
    "window",
}


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests never touch the user's weights cache."""
    before = os.environ.get("PARETOPIPE_CACHE")
    os.environ["PARETOPIPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["PARETOPIPE_CACHE"]
    else:
        os.environ["PARETOPIPE_CACHE"] = before


@contextlib.contextmanager
def _session(shaped):
    """Two workers on this machine, up until the context ends; a test uses them only if it asks."""
    from pplib.config import Backend
    from pplib.devices import load_testbed
    from pplib.testbed.session import workers_up
    from pplib.testbed.session_file import VARIABLE

    with workers_up(load_testbed(ROOT / "params" / "devices" / "local.yaml"), get_args(Backend), shaped) as session:
        del os.environ[VARIABLE]
        yield session


@pytest.fixture(scope="session")
def _plain_session():
    with _session(shaped=False) as session:
        yield session


@pytest.fixture(scope="session")
def emulated_links():
    """Skips a test that emulates links, where that cannot be done."""
    from pplib.testbed.emulation.namespaces import supported

    if reason := supported():
        pytest.skip(f"no network namespaces here: {reason}")


@pytest.fixture(scope="session")
def _shaped_session(emulated_links):
    with _session(shaped=True) as session:
        yield session


@pytest.fixture
def shared_workers(_plain_session, monkeypatch):
    """Two workers that stay up for all tests that leave them whole: starting them takes its time."""
    monkeypatch.setenv("PARETOPIPE_SESSION", str(_plain_session.path))
    return _plain_session


@pytest.fixture
def shared_link(_shaped_session, monkeypatch):
    """As `shared_workers`, with a link between them that can be shaped."""
    monkeypatch.setenv("PARETOPIPE_SESSION", str(_shaped_session.path))


def pytest_collection_modifyitems(config, items):
    """Mark what needs optional parts; leave out what needs a GPU where there is none, as CI could not install one.

    Files that wait for devices come first, the longest of them before: at the end nothing is left to run beside them.
    """
    import torch

    for item in items:
        if OPTIONAL_FIXTURES & set(item.fixturenames):
            item.add_marker("optional")
    waiting = {item.path for item in items if item.get_closest_marker("optional")}
    waits_s = {item.path: mark.args[0] for item in items if (mark := item.get_closest_marker("waits"))}
    items.sort(key=lambda item: (item.path not in waiting, -waits_s.get(item.path, 0)))
    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test skipped for a missing component is a failure in CI: it must install the component."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("PARETOPIPE_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI allows no skips: {report.longrepr}"
