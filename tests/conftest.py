"""Shared by all tests: a cache of their own, and skips that are failures where CI says so."""

from __future__ import annotations

import os

import pytest


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


def pytest_collection_modifyitems(config, items):
    """Tests that need a GPU take no part where there is none: a GPU is no component CI could install."""
    import torch

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
