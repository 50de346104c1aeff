"""Runs that lose a host, a rank or their disk, and what is left to go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from provision.launch.failure import RunOutcome
from provision.launch.nodes import RUNS
from tests.integration.cluster.cluster import Node
from tests.integration.faults.conftest import Hosts, read_said

#: Seconds. A bound of the tests' own: whole runs, on cores that other tests use too.
WITHIN = 300.0
pytestmark = pytest.mark.timeout(1200)
Figure = Callable[[float, RunOutcome | str], None]
STEPS = 40
#: ZeRO-2 over two hosts of the four; the same numbers every time.
TRAIN = (
    "train", "--include", "node1@node2", "--zero", "2", "--offload", "none",
    "--set", f"max_steps={STEPS}", "--set", "save_steps=5", "--set", "seed=1",
)  # fmt: skip


@pytest.fixture
def hosts(desk: Hosts) -> Iterator[Hosts]:
    """The hosts; whatever is done to them is undone after the test."""
    yield desk
    desk.cluster.mended()


def losses(node: Node, run: str) -> dict[int, float]:
    """Loss by step, as rank 0 has written it."""
    path = node.path(f"~/{RUNS}/{run}/metrics.jsonl")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    events = [json.loads(line) for line in lines]
    return {e["step"]: e["loss"] for e in events if e["event"] == "step"}


def runs_of(node: Node) -> set[str]:
    """The ids of the runs that are on a host."""
    folder = node.path(f"~/{RUNS}")
    return {path.name for path in folder.glob("*-sft-*")} if folder.exists() else set()


def until(found: Callable[[], Any], seconds: float = WITHIN) -> Any:
    """The first true value; a test's own bound, not a measure of speed."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.02)
    return value


def saving(train: subprocess.Popen[str], known: set[str], *nodes: Node) -> str:
    """The id of the run that train has started, once each host has its part of a checkpoint."""

    def look() -> str:
        if train.poll() is not None:
            pytest.fail(f"train ended: {train.communicate()[1][-3000:]}")
        run = max(runs_of(nodes[0]) - known, default="")
        path = f"~/{RUNS}/{run}/output"
        parts = [list(node.path(path).glob("checkpoint-*/checkpoint.json")) for node in nodes]
        return run if run and all(parts) else ""

    return str(until(look))


def ranks(node: Node) -> list[int]:
    """Pids of the trainer's ranks on a host, as the machine sees them."""
    found = node.commands().items()
    return [pid for pid, c in found if " trainer.sft " in c and "torch.distributed.run" not in c]


def test_a_host_goes_off_comes_back_and_the_run_goes_on(hosts: Hosts, figure: Figure) -> None:
    first, second = hosts["node1"], hosts["node2"]
    whole = read_said(hosts.start(*TRAIN), WITHIN)
    assert whole.code == 0, whole.stderr[-3000:]
    expected = losses(first, whole.answer["run"])
    assert set(expected) == set(range(1, STEPS + 1))

    known = runs_of(first)
    train = hosts.start(*TRAIN)
    run = saving(train, known, first, second)
    second.off()
    begun = time.monotonic()
    until(lambda: not ranks(first))
    took = time.monotonic() - begun
    broken = read_said(train, WITHIN)
    assert broken.code == 5, broken.stderr[-3000:]
    assert broken.answer["first_failure"]["host"] == "node2"
    before = losses(first, run)

    second.start()
    again = read_said(hosts.start("resume", run), WITHIN)
    assert again.code == 0, again.stderr[-3000:]
    step = again.answer["resumed_step"]
    assert step >= 5
    assert step % 5 == 0
    after = losses(first, again.answer["run"])
    assert set(after) == set(range(step + 1, STEPS + 1))
    figure(took, f"node2 off after step {max(before)}; resumed from {step}, ended at {max(after)}")
    assert before == pytest.approx({n: expected[n] for n in before}, abs=1e-3)
    assert after == pytest.approx({n: expected[n] for n in after}, abs=1e-3)


def test_a_run_goes_on_by_itself_after_a_rank_was_killed(hosts: Hosts, figure: Figure) -> None:
    first, second = hosts["node1"], hosts["node2"]
    known = runs_of(first)
    train = hosts.start(*TRAIN, "--retries", "1")
    run = saving(train, known, first, second)
    begun = time.monotonic()
    os.kill(ranks(second)[0], signal.SIGKILL)
    said = read_said(train, WITHIN)
    took = time.monotonic() - begun
    assert said.code == 0, said.stderr[-3000:]
    assert (said.answer["state"], said.answer["resumed_from"]) == ("finished", run)
    assert said.answer["run"] != run
    (line,) = [line for line in said.stderr.splitlines() if "trying again" in line]
    figure(took, line)
    assert max(losses(first, said.answer["run"])) == STEPS


def test_a_disk_that_is_full_while_a_checkpoint_is_saved(hosts: Hosts, figure: Figure) -> None:
    first, second = hosts["node1"], hosts["node2"]
    runs = f"{hosts.cluster.home}/{RUNS}"
    second.run(["mkdir", "-p", runs])
    second.run(["mount", "-t", "tmpfs", "-o", "size=4g", "small", runs])
    known = runs_of(first)
    train = hosts.start(*TRAIN)
    run = saving(train, known, first, second)
    used = int(second.run(["df", "--output=used", "-k", runs]).split()[-1])
    second.run(["mount", "-o", f"remount,size={used + 64}k", runs])
    begun = time.monotonic()
    until(lambda: not ranks(first) and not ranks(second))
    took = time.monotonic() - begun
    said = read_said(train, WITHIN)
    failure = said.answer["first_failure"]
    figure(took, f"{failure['host']}: rank {failure['rank']}: {failure['reason']}")
    assert said.code == 5, said.stderr[-3000:]
    assert failure["host"] == "node2"
    assert "No space left on device" in failure["reason"]
    assert "a disk of that host is full" in said.answer["known"]["cause"]

    second.run(["mount", "-o", "remount,size=4g", runs])
    again = read_said(hosts.start("resume", run), WITHIN)
    assert again.code == 0, again.stderr[-3000:]
    assert again.answer["resumed_step"] >= 5
