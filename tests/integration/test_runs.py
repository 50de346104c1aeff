"""A run that nobody watches: found, looked at, killed, gone on with, stopped, by its hosts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun

#: Learns at once, and goes on until it is stopped; a checkpoint every few steps.
ENDLESS = ["--set", "max_steps=100000", "--set", "save_steps=4", "--set", "warmup_steps=0",
           "--set", "lr_scheduler_type=constant"]  # fmt: skip


def wait_until(found: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.1)


def losses(folder: Path) -> dict[int, float]:
    """The loss of each step of a run, by rank 0's record."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    events = [json.loads(line) for line in lines]
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def test_a_run_is_left_found_again_killed_and_gone_on_with(deployed: Fleet, zf_run: ZfRun) -> None:
    def zf(*args: str, code: int = 0) -> dict[str, Any]:
        done = zf_run([*args, "--json"], deployed.folder)
        assert done.returncode == code, done.stderr[-3000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    runs = [host.home / ".zerofleet" / "runs" for host in deployed.hosts]
    first = zf("train", *ENDLESS, "--detach", "--env", "OURS=kept", "--grace", "20")["run"]
    wait_until(lambda: max(losses(runs[0] / first), default=0) >= 6)
    outputs = [folder / first / "output" for folder in runs]
    wait_until(lambda: all([*output.glob("checkpoint-*/checkpoint.json")] for output in outputs))

    known = {run["run"]: run for run in zf("runs")["runs"]}
    assert known[first]["state"] == "running"
    assert list(known[first]["nodes"]) == ["node1", "node2"]
    status = zf("status", "last")
    assert (status["run"], status["state"], status["nnodes"]) == (first, "running", 2)
    assert status["progress"]["step"] >= 6
    (process,) = status["nodes"]["node2"]["processes"]
    assert process["rank"] == 1
    (line,) = zf("logs", first, "--rank", "1", "--tail", "1")["lines"]["node2"]
    assert line.startswith("[rank 1]")
    assert "it runs on" in zf("resume", first, code=2)["error"]["found"]

    os.kill(process["pid"], signal.SIGKILL)
    ended = zf("attach", first[-4:], code=5)
    assert (ended["first_failure"]["host"], ended["first_failure"]["rank"]) == ("node2", 1)
    assert (Path(ended["collected"]) / "hosts" / "node1" / "metrics.jsonl").is_file()
    assert not list(Path(ended["adapter"]).glob("checkpoint-*"))
    page = Path(ended["report"]).read_text()
    assert "First failure" in page
    assert "<h2>Hosts</h2>" in page  # as they were when train, which has left, started it
    assert zf("status", first, code=5)["state"] == "failed"

    again = zf("train", "--resume", first, "--detach")  # as invoke resume
    plans = [json.loads((folder / again["run"] / "plan.json").read_text()) for folder in runs]
    assert [plan["environ"]["OURS"] for plan in plans] == ["kept", "kept"]
    assert [plan["limits"]["grace"] for plan in plans] == [20.0, 20.0]
    step = again["resumed_step"]
    assert step % 4 == 0
    before = losses(runs[0] / first)
    assert max(before) > step or step > 4  # there is something to hold the new curve to
    wait_until(lambda: max(losses(runs[0] / again["run"]), default=0) >= step + 2)
    assert zf("stop", again["run"])["state"] == "stopped"
    after = losses(runs[0] / again["run"])
    assert min(after) == step + 1
    shared = sorted(set(before) & set(after))
    assert {n: after[n] for n in shared} == pytest.approx({n: before[n] for n in shared}, abs=1e-3)
