"""For every test: no real project, home or SSH configuration of the user's is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

#: The only reasons a test may be skipped for in CI: what CI's machine can't have.
MAY_SKIP = (
    "needs a GPU",
    "needs nvcc",
    "needs not root",
    "needs root",
    "needs qemu",
    "needs slurm",
)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds zf."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test gets no settings from whoever runs it: neither ours nor Invoke's."""
    for name in list(os.environ):
        if name.startswith(("INVOKE_", "ZEROFLEET_")) and name != "ZEROFLEET_TEST_CACHE":
            monkeypatch.delenv(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    """In CI a skip is a failure, unless its reason starts as one of MAY_SKIP does."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, which is not allowed: {reason}"
    return report
