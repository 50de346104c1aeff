"""For every test: no real project, home or SSH configuration of the user's is touched."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

#: The only reasons a test may be skipped for in CI: what CI's machine can't have.
MAY_SKIP = (
    "needs a GPU",
    "needs nvcc",
    "root may",
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
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one, unless MAY_SKIP lists its reason."""
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI a skipped module (importorskip) is a failed one."""
    return refuse_skip((yield))


def refuse_skip(report: Report) -> Report:
    """The report, failed if it is of a skip that CI does not allow."""
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"skipped, which is not allowed in CI: {reason}"
    return report
