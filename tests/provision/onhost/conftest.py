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

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]


class Node:
    """A run folder on this machine, and the supervisor's own commands over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
            "environ": {"ASKED": "yes"},
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
            timeout=20,
            env={**os.environ, "RANK": "9", "PET_NNODES": "7"},
        )
        line = done.stdout.strip()
        assert line.startswith("ZEROFLEET<<"), done
        return done.returncode, json.loads(line[len("ZEROFLEET<<") : -len(">>ZEROFLEET")])

    def start(self, *modes: str, grace: float = 5.0) -> dict[str, Any]:
        """Start, and wait until the ranks that hang are up."""
        self.plan(*modes, grace=grace)
        code, state = self.command("start")
        assert code == 0, state
        for local_rank, mode in enumerate(modes):
            if mode in ("hang", "deaf", "sore"):
                self.until(lambda i=local_rank: self.rank(i, "ready").exists())
        return state

    def rank(self, local_rank: int, name: str) -> Path:
        return self.folder / "ranks" / "none_x" / "attempt_0" / str(local_rank) / name

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
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
