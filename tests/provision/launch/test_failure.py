from __future__ import annotations

import json
from typing import Any

import pytest

from provision.launch.failure import parse_outcome


def ended(state: str, node_rank: int, failure: dict[str, Any] | None = None, **more: Any) -> Any:
    """One host's exit.json, with two ranks."""
    ranks = [
        {"local_rank": i, "rank": 2 * node_rank + i, "state": state, "exit": None} for i in (0, 1)
    ]
    return {
        "run": "r1",
        "node_rank": node_rank,
        "state": state,
        "exit": 0,
        "started_at": 100.0,
        "ended_at": 160.0,
        "ranks": ranks,
        "first_failure": failure,
        "jit_compiled": [],
        "loss": None,
        **more,
    }


def failed(rank: int, at: float, reason: str, symptom: bool = False) -> dict[str, Any]:
    return {
        "rank": rank,
        "local_rank": rank % 2,
        "at": at,
        "reason": reason,
        "lines": ["a line", reason],
        "symptom": symptom,
    }


CLOSED = "RuntimeError: Connection closed by peer [10.0.0.2]:1"


def test_finished() -> None:
    outcome = parse_outcome(
        "r1",
        {
            "node1": ended("finished", 0, loss=[2.5, 1.5], jit_compiled=["cpu_adam"]),
            "node2": ended("finished", 1, jit_compiled=["shm", "cpu_adam"]),
        },
    )
    assert (outcome.state, outcome.exit_code, outcome.first_failure) == ("finished", 0, None)
    assert [(r.host, r.rank) for r in outcome.ranks] == [
        ("node1", 0),
        ("node1", 1),
        ("node2", 2),
        ("node2", 3),
    ]
    assert outcome.loss == (2.5, 1.5)
    assert outcome.jit_compiled == ("node1:cpu_adam", "node2:shm", "node2:cpu_adam")
    assert outcome.seconds == 60.0


def told(kind: str, **more: Any) -> dict[str, Any]:
    cause = {"kind": kind, "host": "node2", "node_rank": 1, "rank": 3, "local_rank": 1}
    return {**cause, "reason": "ValueError: boom", "at": 120.0, "symptom": False, **more}


def test_a_host_that_can_not_be_asked_is_known_by_what_it_told_another() -> None:
    outcome = parse_outcome("r1", {"node1": ended("stopped", 0, stopped_by=told("failed"))})
    assert (outcome.state, outcome.exit_code) == ("failed", 5)
    assert str(outcome.first_failure) == "node2: rank 3 (local_rank 1): ValueError: boom"
    closed = ended("failed", 0, failed(0, 121.0, CLOSED, symptom=True), stopped_by=told("failed"))
    outcome = parse_outcome("r1", {"node1": closed})
    assert str(outcome.first_failure) == "node2: rank 3 (local_rank 1): ValueError: boom"


def test_who_stopped_because_another_host_was_asked_to_did_not_fail() -> None:
    outcome = parse_outcome("r1", {"node1": ended("stopped", 0, stopped_by=told("asked"))})
    assert (outcome.state, outcome.exit_code, outcome.first_failure) == ("stopped", 0, None)


def test_the_earliest_failure_comes_first() -> None:
    outcome = parse_outcome(
        "r1",
        {
            "node1": ended("failed", 0, failed(0, 130.0, "ValueError: later")),
            "node2": ended("failed", 1, failed(3, 120.0, "ValueError: boom")),
        },
    )
    assert outcome.exit_code == 5
    assert str(outcome.first_failure) == "node2: rank 3 (local_rank 1): ValueError: boom"


def test_clocks_are_compared_after_correction() -> None:
    exits = {
        "node1": ended("failed", 0, failed(0, 130.0, "ValueError: boom")),
        "node2": ended("failed", 1, failed(3, 120.0, "ValueError: later")),
    }
    outcome = parse_outcome("r1", exits, clock_offsets={"node2": -30.0})
    assert outcome.first_failure is not None
    assert (outcome.first_failure.rank, outcome.first_failure.at) == (0, 130.0)
    assert outcome.seconds == 90.0  # node2's 160 was the controller's 190


def test_a_symptom_ranks_behind_a_later_cause() -> None:
    outcome = parse_outcome(
        "r1",
        {
            "node1": ended("failed", 0, failed(0, 119.0, CLOSED, symptom=True)),
            "node2": ended("failed", 1, failed(3, 120.0, "killed by signal 9 (SIGKILL)")),
        },
    )
    assert outcome.first_failure is not None
    assert outcome.first_failure.host == "node2"


def test_only_symptoms_and_a_lost_host_blame_the_host() -> None:
    exits = {"node1": ended("failed", 0, failed(0, 119.0, CLOSED, symptom=True))}
    outcome = parse_outcome("r1", exits, lost={"node2": "the host was restarted during the run"})
    assert (outcome.state, outcome.exit_code) == ("failed", 5)
    assert str(outcome.first_failure) == "node2: the host was restarted during the run"


def test_a_cause_is_not_hidden_by_a_lost_host() -> None:
    exits = {"node1": ended("failed", 0, failed(0, 119.0, "ValueError: boom"))}
    outcome = parse_outcome("r1", exits, lost={"node2": "no answer"})
    assert outcome.first_failure is not None
    assert outcome.first_failure.reason == "ValueError: boom"


def test_hosts_that_went_together_are_named_and_not_the_one_that_is_left() -> None:
    reason = "heard nothing of any of the other 2 hosts for 5.0 s: its network is cut"
    alone = {**failed(0, 150.0, reason), "rank": None, "kind": "isolated", "host": "node1"}
    exits = {"node1": ended("failed", 0, alone)}
    gone = {"node2": "no connection any more", "node3": "no connection any more"}
    first = parse_outcome("r1", exits, lost=gone).first_failure
    assert first
    assert (first.host, first.rank) == ("node2", None)
    assert first.reason.startswith("node2, node3 lost power, or their network, together: node1, ")
    assert first.reason.endswith("reaches, heard nothing of any of the other 2 hosts for 5.0 s")
    # Reached itself, and another one, too: its own network was cut, for all that is known.
    exits["node2"] = ended("stopped", 1, stopped_by=told("isolated", host="node1"))
    first = parse_outcome("r1", exits, lost={"node3": "no connection any more"}).first_failure
    assert first
    assert first.host == "node1"


def test_only_symptoms_are_said_to_be_that() -> None:
    outcome = parse_outcome("r1", {"node1": ended("failed", 0, failed(0, 1.0, CLOSED, True))})
    assert "(only a consequence; its cause left no trace)" in str(outcome)


@pytest.mark.parametrize(
    ("states", "lost", "state", "code"),
    [
        (("finished", "stopped"), {}, "stopped", 0),
        (("finished",), {"node9": "gone"}, "lost", 5),
        (("stopped",), {"node9": "gone"}, "lost", 5),
        ((), {"node9": "gone"}, "lost", 5),
    ],
)
def test_states(states: tuple[str, ...], lost: dict[str, str], state: str, code: int) -> None:
    exits = {f"node{i}": ended(s, i) for i, s in enumerate(states)}
    outcome = parse_outcome("r1", exits, lost=lost)
    assert (outcome.state, outcome.exit_code) == (state, code)


def test_for_a_person() -> None:
    outcome = parse_outcome(
        "r1",
        {
            "node1": ended("stopped", 0, loss=[2.5, 1.25], jit_compiled=["cpu_adam"]),
            "node2": ended("failed", 1, failed(3, 120.0, "ValueError: boom")),
        },
    )
    assert (
        str(outcome)
        == """\
run r1: failed after 60 s
  loss 2.5 → 1.25
  first failure: node2: rank 3 (local_rank 1): ValueError: boom
    | a line
    | ValueError: boom
  failed: rank 2 (node2), rank 3 (node2)
  stopped: rank 0 (node1), rank 1 (node1)
  compiled on hosts during the run: node1:cpu_adam"""
    )


def test_as_json_is_json() -> None:
    exits = {"node2": ended("failed", 1, failed(3, 120.0, "ValueError: boom"))}
    shown = json.loads(json.dumps(parse_outcome("r1", exits).as_json()))
    assert shown["first_failure"]["host"] == "node2"
    assert shown["ranks"][1] == {
        "host": "node2",
        "node_rank": 1,
        "local_rank": 1,
        "rank": 3,
        "state": "failed",
        "exit": None,
    }


def test_a_rank_that_saw_its_peer_go_while_the_run_was_stopped_did_not_fail():
    saw = {
        "rank": 0, "local_rank": 0, "at": 5.0, "reason": "Connection closed by peer",
        "lines": [], "symptom": True,
    }  # fmt: skip
    rank = {"local_rank": 0, "state": "failed", "exit": 1}
    common = {"started_at": 0.0, "ended_at": 6.0, "jit_compiled": [], "loss": None}
    exits = {
        "node1": {
            **common, "node_rank": 0, "state": "failed", "first_failure": saw,
            "ranks": [{**rank, "rank": 0}],
        },
        "node2": {
            **common, "node_rank": 1, "state": "stopped", "first_failure": None,
            "ranks": [{**rank, "rank": 1, "state": "stopped"}],
        },
    }  # fmt: skip
    stopped = parse_outcome("r", exits, stopping=True)
    assert (stopped.state, stopped.first_failure) == ("stopped", None)
    assert parse_outcome("r", exits).state == "failed"
    exits["node1"]["first_failure"] = {**saw, "symptom": False}
    assert parse_outcome("r", exits, stopping=True).state == "failed"
