"""The runs that hosts tell of: one run of many hosts, which one is meant, and its exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.launch.runs import COLUMNS, choose_run, make_runs
from provision.launch.status import exit_code, rank_rows


def node(run: str, node_rank: int, state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "run": run, "node_rank": node_rank, "nnodes": 2, "nproc_per_node": 2, "what": "trainer.sft",
        "deepspeed": "zero2.json", "model": "/m", "output": None, "state": state, "why": "",
        "stopping": False, "stop_asked_at": None, "exit": None, "first_rank": 2 * node_rank,
        "run_dir": f"/srv/{node_rank}/{run}", "by": "ann", "started_at": 100.0,
        "progress": {"step": None, "total_steps": None}, **more,
    }  # fmt: skip


def ended(node_rank: int, state: str, failure: dict[str, Any] | None = None) -> dict[str, Any]:
    first = 2 * node_rank
    return {
        "node_rank": node_rank, "state": state, "exit": 0, "started_at": 100.0, "ended_at": 160.0,
        "ranks": [{"local_rank": i, "rank": first + i, "state": state, "exit": None}
                  for i in (0, 1)],
        "first_failure": failure, "jit_compiled": [], "loss": None,
    }  # fmt: skip


def failed(at: float, *, symptom: bool) -> dict[str, Any]:
    return {"rank": 0, "local_rank": 0, "at": at, "reason": "R", "lines": [], "symptom": symptom}


def run_of(*nodes: dict[str, Any], offsets: dict[str, float] | None = None) -> Any:
    answers = {f"node{one['node_rank'] + 1}": {"runs": [one]} for one in reversed(nodes)}
    (run,) = make_runs(answers, offsets or {})
    return run


def test_a_run_is_one_over_all_its_hosts_and_old_ones_come_first() -> None:
    late = [node("b", 0, started_at=50.0), node("b", 1, started_at=50.0)]
    early = [node("a", 0), node("a", 1)]
    answers = {
        "node2": {"runs": [early[1], late[1]]},
        "node1": {"runs": [early[0], late[0]]},
        "node3": {"runs": []},
    }
    first, second = make_runs(answers, {"node1": -1000.0, "node2": -1000.0})
    assert (first.run, second.run) == ("b", "a")
    assert list(first.nodes) == ["node1", "node2"]
    assert (first.node0, first.nranks, first.unheard) == ("node1", 4, 0)
    assert second.started_at == 1100.0
    assert first.outputs == {"node1": "/srv/0/b/output", "node2": "/srv/1/b/output"}


@pytest.mark.parametrize(
    ("states", "state", "code"),
    [
        (("running", "running"), "running", 0),
        (("running", "failed"), "running", 0),
        (("running",), "running", 1),
        (("finished", "finished"), "finished", 0),
        (("finished",), "unknown", 1),
        (("finished", "stopped"), "stopped", 0),
        (("stopped", "failed"), "failed", 5),
        (("failed",), "failed", 5),
        (("finished", "lost"), "lost", 5),
        (("never started", "never started"), "never started", 1),
    ],
)
def test_one_word_for_all_hosts_and_unknown_is_never_ok(
    states: tuple[str, ...], state: str, code: int
) -> None:
    cause = failed(150.0, symptom=False)
    nodes = [
        node("r", n, each, why="gone" if each == "lost" else "",
             exit=ended(n, each, cause if each == "failed" else None)
             if each in ("finished", "failed", "stopped") else None)
        for n, each in enumerate(states)
    ]  # fmt: skip
    run = run_of(*nodes)
    assert (run.state, exit_code(run)) == (state, code)
    json.dumps(run.as_json())
    assert len(run.row(200.0)) == len(COLUMNS)
    assert len(rank_rows(run)) == run.nranks


def test_what_failed_after_the_request_to_stop_only_followed() -> None:
    def stopped(asked_at: float | None, *, symptom: bool) -> Any:
        cause = failed(150.0, symptom=symptom)
        return run_of(
            node("r", 0, "failed", exit=ended(0, "failed", cause), stop_asked_at=asked_at),
            node("r", 1, "stopped", exit=ended(1, "stopped"), stop_asked_at=asked_at),
        )

    assert stopped(149.0, symptom=True).state == "stopped"
    assert stopped(155.0, symptom=True).state == "failed"  # the others were stopped for its sake
    assert stopped(None, symptom=True).state == "failed"
    assert stopped(149.0, symptom=False).state == "failed"


def test_the_run_that_is_meant() -> None:
    names = ("20260101-1-sft-aa11", "20260102-1-sft-bb22", "20260102-2-sft-cc33")
    answers = {"node1": {"runs": [node(n, 0, started_at=float(i)) for i, n in enumerate(names)]}}
    runs = make_runs(answers, {})
    assert choose_run(runs, "last").run == names[2]
    assert choose_run(runs, "20260101").run == names[0]
    assert choose_run(runs, "bb22").run == names[1]
    assert choose_run(runs, names[1]).run == names[1]
    with pytest.raises(ConfigError, match=f"2 that it could be: {names[1]}, {names[2]}"):
        choose_run(runs, "20260102")
    with pytest.raises(ConfigError, match=r"none of that name.*there are 2026"):
        choose_run(runs, "zz")
    with pytest.raises(ConfigError, match="there are none yet"):
        choose_run((), "last")


def test_for_a_person() -> None:
    progress = {"step": 5, "total_steps": 10, "loss": [3.0, 2.5], "tokens_per_second": 1900.0,
                "seconds_left": 65.0}  # fmt: skip
    stopped = {"pid": 7, "letter": "T", "cpu_seconds": 3.2, "resident_bytes": 10**9,
               "gpu_bytes": None, "rank": 0}  # fmt: skip
    paces = [
        {"rank": rank, "step": 5, "forward_seconds": seconds, "host_bytes": 1}
        for rank, seconds in ((0, 0.25), (1, 0.1))
    ]
    run = run_of(node("r", 0, progress=progress, processes=[stopped], pace=paces))
    assert run.lines() == (
        "run r: running, trainer.sft zero2, 2 ranks, step 5/10, loss 2.5, 1.9k tok/s, 1:05 left",
        "slowest rank 0 (node1), forward 2.5x the others'",
        "1 of its 2 hosts did not tell of it",
    )
    assert rank_rows(run)[0][2:9] == (
        "stopped by a signal (SIGCONT would continue it)", "7", "5", "0.25 s", "3 s", "1.00 GB", ""
    )  # fmt: skip
    assert rank_rows(run)[1][2:6] == ("no process yet, or any more", "", "5", "0.1 s")
