"""Real SSH hosts for the integration tests: two of the demo's, with homes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from provision.demo.fleet import Fleet, apply_start_fleet, apply_stop_fleet

ZfRun = Callable[..., "subprocess.CompletedProcess[str]"]
CHECKOUT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test, and may take its minutes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def cache() -> Path:
    """What is kept between runs of the tests: built wheels. ZEROFLEET_TEST_CACHE names it."""
    folder = Path(os.environ.get("ZEROFLEET_TEST_CACHE") or CHECKOUT / ".zerofleet-test")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Fleet]:
    """Two running hosts, node1 and node2, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("fleet") / "two hosts"
    running = apply_start_fleet(folder, n=2, settings={"wheels": str(cache / "wheels")})
    yield running
    apply_stop_fleet(running)


@pytest.fixture(scope="session")
def zf_run() -> ZfRun:
    """``zf_run(args, cwd)``: run ``invoke args`` as a user would, and return what it said.

    ``cwd`` is a fleet's folder (plain ``invoke`` works there), or any other, as through ``./zf``.
    """

    def run(
        args: Sequence[str],
        cwd: Path,
        *,
        timeout: float = 900,
        environ: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "invoke"]
        if not (cwd / "tasks.py").exists():
            argv += ["--search-root", str(CHECKOUT)]
        return subprocess.run(
            [*argv, *args],
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
