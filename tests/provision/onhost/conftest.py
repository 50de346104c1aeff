from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.onhost.folder import read_json
from tests.provision.onhost.relay_host import Host, Push

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]


class Node:
    """A run folder on this machine, and the supervisor's own commands over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {}

    def plan(
        self, *modes: str, argv: list[str] | None = None, grace: float = 5.0, **limits: float
    ) -> None:
        (self.folder / "code").mkdir(parents=True, exist_ok=True)
        fake = [sys.executable, str(HERE / "fake_torchrun.py"), str(self.folder / "ranks")]
        plan = {
            "run": "r1",
            "node_rank": 1,
            "nproc_per_node": len(modes),
            "first_rank": 4,
            "argv": argv or [*fake, *modes],
            "environ": {"ASKED": "yes", **self.environ},
            "limits": {"grace": grace, **limits},
        }
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def command(self, name: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "provision.onhost.supervise", name, str(self.folder)],
            cwd=CHECKOUT,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "RANK": "9", "PET_NNODES": "7"},
        )
        line = done.stdout.strip()
        assert line.startswith("ZEROFLEET<<"), done
        return done.returncode, json.loads(line[len("ZEROFLEET<<") : -len(">>ZEROFLEET")])

    def start(self, *modes: str, grace: float = 5.0, **limits: float) -> dict[str, Any]:
        """Start, and wait until the ranks that hang are up."""
        self.plan(*modes, grace=grace, **limits)
        code, state = self.command("start")
        assert code == 0, state
        for local_rank, mode in enumerate(modes):
            if mode in ("hang", "deaf", "sore", "saver", "deafsaver"):
                self.until(lambda i=local_rank: self.rank(i, "ready").exists())
        return state

    def rank(self, local_rank: int, name: str) -> Path:
        return self.folder / "ranks" / "none_x" / "attempt_0" / str(local_rank) / name

    def until(self, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
        """What the condition says once it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.01)
        log = self.folder / "supervisor.log"
        raise AssertionError(f"not within {seconds} s; {log.read_text() if log.exists() else ''}")

    def exit(self) -> dict[str, Any]:
        """exit.json, once it is there."""
        return self.until(lambda: read_json(str(self.folder / "exit.json")))

    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "record.json").read_text())

    def kill(self, who: str) -> None:
        os.kill(self.record()[who]["pid"], signal.SIGKILL)

    def processes(self) -> list[int]:
        """Every live process that has this run's folder on its command line."""
        found = []
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if str(self.folder) in command and pid != os.getpid():
                found.append(pid)
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "runs" / "a run")
    node.folder.mkdir(parents=True)
    yield node
    # Nothing outlives its test; nothing is killed here that the supervisor did not end itself.
    (node.folder / "stop").touch()
    node.until(lambda: not node.processes())


@pytest.fixture
def python_with(tmp_path: Path) -> Callable[[dict[str, str]], str]:
    """The Python of an environment that holds these files, path → text, as its packages."""

    def make(packages: dict[str, str]) -> str:
        root = tmp_path / "environment"
        site = root / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
        for name, text in packages.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        (root / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(sys.executable)
        return str(root / "bin" / "python")

    return make


@pytest.fixture
def hosts(tmp_path):
    made: list[Host] = []

    def make(*names: str) -> list[Host]:
        made.extend(Host(tmp_path / name) for name in names)
        return made[-len(names) :]

    yield make
    for host in made:
        host.process.stdin.close()
        host.process.wait(120)
        host.process.stdout.close()


@pytest.fixture
def push() -> Push:
    return Push()
