"""Real SSH hosts for the integration tests: two of the demo's, with homes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provision.demo.fleet import Fleet, apply_start_fleet, apply_stop_fleet, read_pip_cache
from provision.demo.story import demo_settings

ZfRun = Callable[..., "subprocess.CompletedProcess[str]"]
ZfStart = Callable[[Sequence[str], Path], "subprocess.Popen[str]"]
CHECKOUT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test, and may take its minutes.

    Whichever test comes first waits for a session's fixture: that has timeouts of its own.
    """
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(900, func_only=True))


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


def environ_of(cache: Path) -> dict[str, str]:
    """What a command is run with: builds and wheels are kept in ``cache``."""
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "PIP_CACHE_DIR": str(read_pip_cache(os.environ)),
    }


@pytest.fixture(scope="session")
def zf_run(cache: Path) -> ZfRun:
    """``zf_run(args, cwd)``: run ``invoke args`` as a user would, and return what it said.

    ``cwd`` is a fleet's folder (plain ``invoke`` works there), or any other, as through ``./zf``.
    Builds are cached in ``cache``, not in the home of whoever runs the tests.
    """
    kept = environ_of(cache)

    def run(
        args: Sequence[str],
        cwd: Path,
        *,
        timeout: float = 1500,
        environ: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "invoke"]
        if not (cwd / "tasks.py").exists():
            argv += ["--search-root", str(CHECKOUT)]
        return subprocess.run(
            [*argv, *args],
            cwd=cwd,
            env=kept | (environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def zf_start(cache: Path) -> Iterator[ZfStart]:
    """``zf_start(args, folder)``: ``invoke args`` left running, in a session of its own as a
    terminal gives it; stopped as by Ctrl-C where the test itself failed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(args: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "invoke", *args],
            cwd=cwd,
            env=environ_of(cache),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=300)


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """One ``invoke demo``: where, and what it answered and said."""

    folder: Path
    code: int
    answer: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory, cache: Path, zf_run: ZfRun) -> list[DemoRun]:
    """The demo, twice in one folder: the one long piece of work that other tests build upon."""
    folder = tmp_path_factory.mktemp("demo") / "the demo"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    runs = []
    for _ in range(2):
        done = zf_run(["demo", "--folder", str(folder), "--json"], elsewhere)
        assert done.stdout.count("\n") == 1, done.stderr[-3000:]
        answer = json.loads(done.stdout)
        runs.append(
            DemoRun(
                folder=folder,
                code=done.returncode,
                answer=answer,
                said=done.stderr,
            )
        )
    python = (folder / "node1" / ".zerofleet" / "current").resolve() / "bin" / "python"
    if python.exists():
        # For tests/run.py: the trainer's tests, which go on beside this.
        (cache / "host_python.new").write_text(str(python))
        (cache / "host_python.new").rename(cache / "host_python")
    return runs


@pytest.fixture(scope="module")
def deployed(demos: list[DemoRun]) -> Iterator[Fleet]:
    """The demo's hosts, up again: wheel built, environment deployed, a tiny model at hand."""
    assert demos[-1].code == 0, demos[-1].said[-3000:]
    running = apply_start_fleet(demos[-1].folder, settings=demo_settings(demos[-1].folder))
    yield running
    apply_stop_fleet(running)
