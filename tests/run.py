"""All checks, as ``./zf test`` runs them: lint, unit, builds, integration, trainer.

Standard library only. Builds and the trainer's tests compute for minutes while the tests of hosts
mostly wait: after lint and unit, those two go on beside integration, once that has deployed an
environment, and yield to it.

    ./zf test                  everything (.ci/run does the same)
    ./zf test lint unit        some phases, in this order always
    ./zf test unit -k relay    what follows the phases goes to pytest; -k alone means: unit

ZEROFLEET_TEST_CACHE (default .zerofleet-test) keeps built wheels between runs. In a checkout whose
path ninja could not handle (a space), the default is a folder in the system's temporary one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent


def read_cache() -> Path:
    """The folder that tests work in: in the checkout, unless ninja would stumble over its path."""
    named = os.environ.get("ZEROFLEET_TEST_CACHE")
    folder = Path(named or ROOT / ".zerofleet-test").resolve()
    if not named and not re.fullmatch(r"[A-Za-z0-9/._+@-]+", str(folder)):
        digest = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
        folder = Path(tempfile.gettempdir()) / f"zerofleet-test-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        sys.exit(f"zf test: {folder} is another user's: name a folder with ZEROFLEET_TEST_CACHE")
    return folder


CACHE = read_cache()
os.environ["ZEROFLEET_TEST_CACHE"] = str(CACHE)
# As users have it: hundreds of Pythons start here, and each would compile what it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
DEV = ROOT / "locks" / "dev.lock"
#: Written by the integration tests: the Python of an environment that they deployed.
HOST_PYTHON = CACHE / "host_python"
PHASES = ("lint", "unit", "builds", "integration", "trainer")
#: What computes, and goes on beside integration.
ASIDE = ("builds", "trainer")
BUILDS = "tests/integration/build"
#: In a cache: the build's own, with the wheel that integration made and its environment.
MADE = "xdg/zerofleet/build"


@dataclass
class Total:
    """What the phases came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Lane:
    """How the checks of one lane are run: here and now, or beside another lane."""

    #: Builds of one lane would wait for the lock that another's hold.
    cache: Path = CACHE
    log: IO[bytes] | None = None

    def say(self, line: str) -> None:
        """Head what comes next."""
        text = f"\n== {line}\n"
        if self.log:
            self.log.write(text.encode())
        else:
            print(text, end="", flush=True)

    def call(self, argv: list[str]) -> int:
        """Run one check from the checkout; its exit code."""
        if self.log is None:
            return subprocess.run(argv, cwd=ROOT, check=False).returncode
        return subprocess.run(
            ["nice", "-n", "10", *argv],
            cwd=ROOT,
            env={**os.environ, "ZEROFLEET_TEST_CACHE": str(self.cache)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


HERE = Lane()


def install(target: Path | None = None) -> bool:
    """The dev lock, into this environment or a folder of its own; only when it changed."""
    stamp = (target or Path(sys.prefix)) / ".zf-dev-lock"
    if stamp.is_file() and stamp.read_bytes() == DEV.read_bytes():
        return True
    HERE.say(f"installing {DEV.relative_to(ROOT)} into {target or sys.prefix}")
    argv = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    argv += ["--require-hashes", "-r", str(DEV)]
    if target:
        shutil.rmtree(target, ignore_errors=True)
        argv += ["--target", str(target)]
    if HERE.call(argv):
        return False
    shutil.copyfile(DEV, stamp)
    return True


def lint(total: Total) -> None:
    """Style, then types. Each is one check."""
    checks = [
        [sys.executable, "-m", *argv]
        for argv in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
    ]
    if shutil.which("shellcheck"):
        beds = ["tests/integration/cluster/host.sh", "tests/integration/slurm/node.sh"]
        checks.append(["shellcheck", "zf", ".ci/run", *beds])
    elif os.environ.get("CI") == "true":
        HERE.say("shellcheck is missing")
        total.failed += 1
    for argv in checks:
        code = HERE.call(argv)
        total.failed += code != 0
        total.passed += code == 0


def pytest(total: Total, name: str, args: list[str], command: list[str], lane: Lane) -> None:
    """One run of pytest; counted from its own report, so that no count is guessed."""
    report = CACHE / f"{name}.xml"
    report.unlink(missing_ok=True)
    argv = [*command, "-q", "-ra", f"--junitxml={report}"]
    code = lane.call([*argv, f"--basetemp={lane.cache / ('tmp-' + name)}", *args])
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if report.is_file():
        for suite in ET.parse(report).iter("testsuite"):
            counts = {key: counts[key] + int(suite.get(key, 0)) for key in counts}
    bad = counts["failures"] + counts["errors"]
    total.passed += counts["tests"] - bad - counts["skipped"]
    total.skipped += counts["skipped"]
    # 5: nothing was selected. Any other code without a failed test is a broken run.
    total.failed += bad or int(code not in (0, 5))


def trainer(total: Total, args: list[str], lane: Lane) -> None:
    """The trainer's tests, by the Python of a deployed host: what users train with."""
    target = CACHE / "pytest"
    python = HOST_PYTHON.read_text() if HOST_PYTHON.is_file() else ""
    if not Path(python).is_file():
        lane.say("trainer: no deployed environment; ./zf test integration makes one")
        total.failed += 1
    elif not install(target):
        total.failed += 1
    else:
        # Last on its path, and never installed into it: the environment is tested as deployed.
        start = f"import sys; sys.path.append({str(target)!r}); import pytest; "
        start += "sys.exit(pytest.main())"
        pytest(total, "trainer", ["tests/trainer", *args], [python, "-c", start], lane)


def run_phase(total: Total, phase: str, args: list[str], lane: Lane = HERE) -> None:
    """One phase."""
    own = [sys.executable, "-m", "pytest"]
    lane.say(phase)
    if phase == "lint":
        lint(total)
    elif phase == "unit":
        others = ["--ignore=tests/integration", "--ignore=tests/trainer"]
        pytest(total, phase, ["tests", *others, *args], own, lane)
    elif phase == "builds":
        pytest(total, phase, [BUILDS, *args], own, lane)
    elif phase == "integration":
        pytest(total, phase, ["tests/integration", f"--ignore={BUILDS}", *args], own, lane)
    else:
        trainer(total, args, lane)


@contextlib.contextmanager
def beside(total: Total, phases: list[str], args: list[str]) -> Iterator[None]:
    """Run phases beside what is done meanwhile; their output comes at the end, in one piece."""
    over, interrupted = threading.Event(), threading.Event()
    cache, log = CACHE / "beside", CACHE / "beside.log"
    cache.mkdir(exist_ok=True)

    def run(lane: Lane) -> None:
        while not HOST_PYTHON.is_file() and not over.wait(1):
            pass  # until integration has deployed an environment, or is over
        for name in ("environments", "sources", "wheels"):
            made, own = CACHE / MADE / name, lane.cache / MADE / name
            if made.is_dir() and not own.exists():
                shutil.copytree(made, own, symlinks=True, copy_function=os.link)
        for phase in phases:
            if not interrupted.is_set():
                run_phase(total, phase, args, lane)

    with log.open("wb", buffering=0) as written, ThreadPoolExecutor(1) as pool:
        done = pool.submit(run, Lane(cache=cache, log=written))
        try:
            yield
            HERE.say(f"to the end of {' and '.join(phases)}; what they say so far: {log}")
        except BaseException:  # an interrupt reaches the checks of both lanes
            interrupted.set()
            raise
        finally:
            over.set()
            done.result()
    sys.stdout.write(log.read_text(errors="replace"))


def main(argv: list[str]) -> int:
    """Run the phases asked for; 0 when nothing failed."""
    chosen = [a for a in argv if a in PHASES]
    args = argv[len(chosen) :]
    if any(a in PHASES for a in args):
        print(f"zf test: phases ({', '.join(PHASES)}) come first", file=sys.stderr)
        return 2
    if args and not chosen:
        chosen = ["unit"]
    started, total = time.monotonic(), Total()
    if not install():
        return 1
    phases = [phase for phase in PHASES if not chosen or phase in chosen]
    aside = [one for one in phases if one in ASIDE and "integration" in phases]
    if "integration" in phases:
        HOST_PYTHON.unlink(missing_ok=True)
    for phase in [one for one in phases if one not in aside]:
        at_once = aside if phase == "integration" else []
        with beside(total, at_once, args) if at_once else contextlib.nullcontext():
            run_phase(total, phase, args)
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    HERE.say(f"{total} in {minutes}:{seconds:02d}")
    return 1 if total.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
