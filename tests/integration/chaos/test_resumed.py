"""Runs that lose a host, a rank or their disk, and what is left to go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
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


class Lines:
    """What a command writes to stderr, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._lines.append(line)

    def having(self, words: str) -> str:
        """The last line with these words so far; empty if none has them."""
        return next((line for line in reversed(self._lines) if words in line), "")

    def text(self) -> str:
        """The end of it all."""
        return "".join(self._lines)[-3000:]

    def answer(self, within: float) -> tuple[int, dict[str, Any]]:
        """The exit code and the JSON object, once the command has ended."""
        code = self._process.wait(within)
        self._reader.join()
        assert self._process.stdout
        assert self._process.stderr
        with self._process.stdout as out, self._process.stderr:
            return code, json.loads(out.read())


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
    told = time.monotonic() - begun
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
    steps = f"node2 off after step {max(before)}; resumed from {step}, ended at {max(after)}"
    figure(took, f"{steps}; told, collected and exit 5 after {told:.1f} s")
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


def test_a_run_goes_on_by_itself_once_a_host_is_back(hosts: Hosts, figure: Figure) -> None:
    first, second = hosts["node1"], hosts["node2"]
    known = runs_of(first)
    train = hosts.start(*TRAIN, "--retries", "1")
    lines = Lines(train)
    run = saving(train, known, first, second)
    second.off()
    begun = time.monotonic()
    until(lambda: lines.having("waiting for hosts"))
    away = time.monotonic() - begun
    assert "node2" in lines.having("waiting for hosts")
    second.start()
    code, answer = lines.answer(WITHIN)
    took = time.monotonic() - begun
    assert code == 0, lines.text()
    figure(took, f"waited for after {away:.1f} s; {lines.having('going on from step')}")
    assert (answer["state"], answer["resumed_from"]) == ("finished", run)
    assert answer["resumed_step"] >= 5
    assert max(losses(first, answer["run"])) == STEPS


def test_a_host_that_stays_away_leaves_the_first_failure(hosts: Hosts, figure: Figure) -> None:
    first, second = hosts["node1"], hosts["node2"]
    known = runs_of(first)
    train = hosts.start(*TRAIN, "--retries", "1", "--retry-within", "20")
    run = saving(train, known, first, second)
    second.off()
    begun = time.monotonic()
    said = read_said(train, WITHIN)
    took = time.monotonic() - begun
    assert said.code == 5, said.stderr[-3000:]
    assert (said.answer["run"], said.answer["first_failure"]["host"]) == (run, "node2")
    assert f"then invoke resume {run}" in said.answer["error"]["remedy"]
    figure(took, said.answer["error"]["found"])


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
