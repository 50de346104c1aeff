"""``invoke node`` on three hosts, started by hand: who is there twice, late, or fails, is named.

The nodes have the hosts' networks and names, and the machine's own files: each has a home of its
own, in which the deployed environment is linked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provision.demo.fleet import CHECKOUT
from provision.launch.nodes import RUNS
from provision.script import script_argv
from tests.integration.chaos.conftest import HERE
from tests.integration.faults.conftest import Hosts

PORT = 29631
SECONDS = 200.0


def until(found: Callable[[], Any], nodes: list[Standing]) -> Any:
    """The first true value; a test's own bound, not a measure of speed."""
    deadline = time.monotonic() + SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline, {node.home.name: node.said[-2000:] for node in nodes}
        time.sleep(0.1)
    return value


@dataclass(kw_only=True)
class Standing:
    """A person on one host, who has typed ``invoke node``."""

    home: Path
    process: subprocess.Popen[str]
    said: str = field(default="", init=False)

    @property
    def log(self) -> str:
        """What the person reads so far."""
        self.said = (self.home / "said").read_text()
        return self.said

    @property
    def run(self) -> Path | None:
        """The run's folder, once there is one."""
        return next(iter((self.home / RUNS).glob("*")), None)

    def step(self, rank: int) -> int:
        """The last step of the rank here."""
        file = self.run and self.run / f"step-{rank}"
        return int(file.read_text() or 0) if file and file.exists() else 0

    def answer(self) -> dict[str, Any]:
        """The JSON object that the command ended with."""
        out, _ = self.process.communicate(timeout=SECONDS)
        return dict(json.loads(out))

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGINT)
            self.process.communicate(timeout=60)
        if self.run and (self.run / "record.json").exists():
            argv = script_argv("supervise", ["stop", str(self.run)])
            subprocess.run(argv, capture_output=True, check=True)
            deadline = time.monotonic() + 60
            while not (self.run / "exit.json").exists() and time.monotonic() < deadline:
                time.sleep(0.1)


Stand = Callable[[int, int], Standing]


@pytest.fixture
def stand(request: pytest.FixtureRequest, desk: Hosts, tmp_path: Path) -> Iterator[Stand]:
    """``stand(host, node_rank)``: start this node of a run of three.

    Each test at a port of its own: a node that has failed still tells those that start late.
    """
    port = PORT + ("late" in request.node.name)
    standing: list[Standing] = []
    code = tmp_path / "code"
    code.mkdir()
    (code / "rank.py").write_bytes((HERE / "rank.py").read_bytes())
    current = Path(desk.cluster.home, ".zerofleet", "current").resolve()

    def start(number: int, node_rank: int) -> Standing:
        host = desk.cluster.nodes[number - 1]
        home = tmp_path / host.name
        (home / ".zerofleet").mkdir(parents=True)
        (home / ".zerofleet" / "current").symlink_to(current)
        argv = ["nsenter", f"--target={host.pid}", "--net", "--uts", "--", sys.executable, "-P"]
        argv += ["-m", "invoke", "--search-root", str(CHECKOUT), "node", "2", "3", "1"]
        argv += [desk.cluster.nodes[0].address, str(port), "--script", "rank.py", "--json"]
        environ = {"HOME": str(home), "PATH": os.environ["PATH"], "NODE_RANK": str(node_rank)}
        with (home / "said").open("w") as said:
            process = subprocess.Popen(
                argv, cwd=code, env=environ, stdin=subprocess.DEVNULL, text=True,
                stdout=subprocess.PIPE, stderr=said, start_new_session=True,
            )  # fmt: skip
        standing.append(Standing(home=home, process=process))
        return standing[-1]

    yield start
    for node in standing:
        node.end()


def test_by_hand_a_node_rank_given_twice_is_named_on_every_node(stand: Stand) -> None:
    nodes = [stand(1, 0), stand(2, 1), stand(3, 1)]
    for node in nodes:
        answer = node.answer()
        assert answer["exit"] == 5, node.log
        assert answer["state"] == "failed"
        reason = answer["first_failure"]["reason"]
        assert "node_rank 1 is taken twice: by node" in reason
        assert "(10.77.0.2)" in reason or "(10.77.0.3)" in reason
        report = Path(answer["report"])
        assert report.is_relative_to(node.home / RUNS)
        assert "1 of 3 hosts" in report.read_text()


def test_by_hand_a_late_node_is_awaited_by_name_and_its_failure_told_to_all(
    stand: Stand,
) -> None:
    nodes = [stand(1, 0), stand(2, 1)]
    line = "waiting for node_rank 2: not heard of for 10 s, at most 300 s"
    until(lambda: all(line in node.log for node in nodes), nodes)
    nodes.append(stand(3, 2))
    until(lambda: all(node.step(rank) for rank, node in enumerate(nodes)), nodes)
    assert nodes[2].run
    (nodes[2].run / "raise-2").touch()
    for node in nodes:
        answer = node.answer()
        assert answer["exit"] == 5, node.log
        first = answer["first_failure"]
        assert (first["host"], first["rank"]) == ("node3", 2)
        assert "ValueError: boom on rank 2" in first["reason"]
