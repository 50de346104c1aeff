"""--retries: which hosts are waited for, and what a command answers whose run could not go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.commands.train import retry
from provision.commands.train.retry import apply_retries, gather_back, why_not_back
from provision.errors import RANK_FAILED, ConfigError, UnreachableError
from provision.findings import Finding, Level, Report
from provision.launch.code import Code
from provision.launch.environment import RunEnviron
from provision.launch.failure import parse_outcome
from provision.launch.prepare import Program
from provision.launch.results import RunResult
from provision.launch.runs import KnownRun
from provision.launch.spec import Script
from provision.settings import make_settings
from provision.show import Answer

SILENT = UnreachableError("node2: ssh", found="no answer", expected="an answer", remedy="look")
SETTINGS = make_settings({"retries": 2}, {}, Path("/"))
SCRIPT = Program(code=Code(files=(), archive=b""), environ=RunEnviron(), script=Script(path="t.py"))
FLEET: Any = None


def run_of(*states: str, run: str = "r") -> KnownRun:
    nodes = {
        f"node{n + 1}": {"state": state, "exit": None, "why": "" if state == "running" else "gone",
                         "stop_asked_at": None}
        for n, state in enumerate(states)
    }  # fmt: skip
    return KnownRun(run=run, nodes=nodes)


def exit_of(node_rank: int, state: str) -> dict[str, Any]:
    rank = {"local_rank": 0, "rank": node_rank, "state": state, "exit": int(state == "failed")}
    return {
        "node_rank": node_rank, "state": state, "exit": rank["exit"], "started_at": 1.0,
        "ended_at": 2.0, "loss": None, "jit_compiled": [], "ranks": [rank], "first_failure": None,
    }  # fmt: skip


def ended(*lost: str, run: str = "r") -> RunResult:
    state = "failed" if lost else "finished"
    exits = {f"node{n + 1}": exit_of(n, state) for n in range(2) if f"node{n + 1}" not in lost}
    outcome = parse_outcome(run, exits, lost=dict.fromkeys(lost, "silent"))
    folder = Path("/none")
    return RunResult(
        outcome=outcome, interrupted=False, collected=folder, adapter=folder, optimizer=None
    )


def test_a_host_is_waited_for_until_it_tells_of_the_run_and_its_part_is_over() -> None:
    hosts = ("node1", "node2")
    assert why_not_back(run_of("failed", "lost"), {}, hosts) == {}
    assert why_not_back(run_of("failed"), {"node2": SILENT}, hosts) == {"node2": "no answer"}
    assert why_not_back(run_of("failed"), {}, hosts) == {"node2": "it does not tell of the run"}
    assert list(why_not_back(run_of("failed", "running"), {}, hosts)) == ["node2"]
    assert list(why_not_back(None, {"node9": SILENT}, hosts)) == ["node1", "node2"]


class Dropped:
    """A fleet that counts which connections are given up."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def disconnect(self, host: str) -> None:
        self.hosts.append(host)


def test_a_host_that_comes_back_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = [
        ((run_of("failed"),), {"node2": SILENT}),
        ((run_of("failed"),), {}),
        ((run_of("failed", "lost"), run_of("running", run="other")), {}),
    ]
    monkeypatch.setattr(retry, "gather_runs", lambda *_, **__: looks.pop(0))
    monkeypatch.setattr(retry, "LOOK", 0.0)
    fleet: Any = Dropped()
    back = gather_back(Answer(json=True), fleet, ended("node2"), 900)
    assert (back.run, list(back.nodes), looks) == ("r", ["node1", "node2"], [])
    assert fleet.hosts == [
        "node2",
        "node2",
    ]  # at first, and after each look in vain: never asked over a connection that may be a dead one
    # What is known of it already, before it is looked at.
    assert "waiting for hosts, 0:00 of 15:00: node2: silent" in capsys.readouterr().err


def test_a_host_that_stays_away_ends_the_wait_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "gather_runs", lambda *_, **__: ((), {"node2": SILENT}))
    monkeypatch.setattr(retry, "LOOK", 0.0)
    fleet: Any = Dropped()
    with pytest.raises(UnreachableError, match=r"node2: no answer.*then invoke resume r"):
        gather_back(Answer(json=True), fleet, ended("node2"), 0.01)


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setattr(retry, "PAUSE", 0.0)
    found = Answer(json=True)
    found.outcome(ended("node2"))
    return found


def test_what_keeps_a_retry_from_beginning_hides_no_outcome(
    out: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def away(*_: Any) -> KnownRun:
        tries.append(1)
        raise ConfigError("checkpoint", found="none", expected="one", remedy="train anew")

    monkeypatch.setattr(retry, "gather_back", away)
    apply_retries(out, SETTINGS, FLEET, SCRIPT, ended("node2"), lambda *_: None)
    assert len(tries) == 2
    assert out.exit == RANK_FAILED
    assert out.values["lost"] == {"node2": "silent"}
    assert out.values["error"]["what"] == "checkpoint"


def test_a_run_that_only_its_controller_lost_is_not_begun_again(
    out: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run_of("finished", "finished")
    exits = {"node1": exit_of(0, "finished"), "node2": exit_of(1, "finished")}
    nodes = {h: {**node, "exit": exits[h], "why": ""} for h, node in finished.nodes.items()}
    monkeypatch.setattr(retry, "gather_back", lambda *_: replace(finished, nodes=nodes))
    told = []
    monkeypatch.setattr(retry, "apply_ended", lambda *given: told.append(given[-1]))
    apply_retries(out, SETTINGS, FLEET, SCRIPT, ended("node2"), lambda *_: pytest.fail("begun"))
    assert [outcome.state for outcome in told] == ["finished"]


def test_a_script_begins_again_and_what_was_found_before_is_forgotten(
    out: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "gather_back", lambda *_: run_of("failed", "lost"))
    full = Finding(
        host="node2",
        subject="gpu 0",
        level=Level.ERROR,
        found="busy",
        expected="free",
        remedy="wait",
    )
    begun = []

    def run_again(s: Any, program: Program) -> RunResult:
        assert (s, program) == (SETTINGS, SCRIPT)
        begun.append(1)
        if len(begun) == 1:
            out.require(Report(findings=(full,)))
        out.outcome(ended(run="again"))
        return ended(run="again")

    apply_retries(out, SETTINGS, FLEET, SCRIPT, ended("node2"), run_again)
    assert (len(begun), out.exit, out.values["run"]) == (2, 0, "again")
    assert "error" not in out.values


def test_what_came_to_its_end_or_was_stopped_is_not_begun_again(out: Answer) -> None:
    apply_retries(out, SETTINGS, FLEET, SCRIPT, ended(), lambda *_: pytest.fail("begun"))
    stopped = replace(ended("node2"), interrupted=True)
    apply_retries(out, SETTINGS, FLEET, SCRIPT, stopped, lambda *_: pytest.fail("begun"))
