"""A host that goes away during a run: the others are stopped, and it is named."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet


def test_a_host_that_goes_away_is_named_and_the_others_are_stopped(deployed: Fleet) -> None:
    runs = deployed.hosts[0].home / ".zerofleet" / "runs"
    known = set(runs.glob("*"))
    argv = [sys.executable, "-P", "-m", "invoke", "train", "--json", "--set", "max_steps=100000"]
    with subprocess.Popen(
        argv,
        cwd=deployed.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as train:
        while not any(steps(run) for run in set(runs.glob("*")) - known):
            assert train.poll() is None, train.communicate()[1][-3000:]
            time.sleep(0.1)  # bounded by the test's own timeout
        deployed.hosts[1].server.terminate()  # a power cut: everything on it ends, its sshd too
        out, err = train.communicate()
    assert train.returncode == 5, err[-3000:]
    answer = json.loads(out)
    assert answer["first_failure"]["host"] == "node2"
    assert answer["first_failure"]["rank"] is None
    assert "node2" in answer["lost"]
    assert {rank["host"] for rank in answer["ranks"]} == {"node1"}


def steps(run: Path) -> bool:
    metrics = run / "metrics.jsonl"
    return metrics.exists() and '"step"' in metrics.read_text()
