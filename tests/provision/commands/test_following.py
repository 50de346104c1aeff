"""The commands about runs: whose lines are shown, who is told to stop, how a run is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from provision.commands import following
from provision.commands.following import log_lines, plan_stop, shown_hosts, stop_seconds
from provision.commands.runs_tasks import TASKS
from provision.errors import ConfigError, UnreachableError
from provision.launch.runs import KnownRun
from provision.settings import make_settings
from provision.show import Answer, Stop


def run_of(*states: str) -> KnownRun:
    nodes: dict[str, Any] = {
        f"node{n + 1}": {"run_dir": f"/r{n + 1}", "first_rank": 2 * n, "nproc_per_node": 2,
                         "state": state}
        for n, state in enumerate(states)
    }  # fmt: skip
    return KnownRun(run="r", nodes=nodes)


def settings(**flags: Any) -> Any:
    return make_settings({}, flags, Path("/"))


@pytest.mark.parametrize(
    ("flags", "hosts"),
    [
        ({}, ["node1", "node2"]),
        ({"host": "node2"}, ["node2"]),
        ({"rank": "0"}, ["node1"]),
        ({"rank": 3}, ["node2"]),
    ],
)
def test_whose_lines_are_shown(flags: dict[str, Any], hosts: list[str]) -> None:
    assert list(shown_hosts(run_of("running", "running"), settings(**flags))) == hosts


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"host": "node9"}, "--host: found node9, expected node1, node2"),
        ({"rank": 4}, "--rank: found 4, expected a rank of node1, node2"),
        ({"rank": "0", "host": "node2"}, "--rank: found 0, expected a rank of node2"),
        ({"rank": -1}, "--rank: found -1"),
    ],
)
def test_a_host_or_rank_that_the_run_has_not_is_refused(
    flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        shown_hosts(run_of("running", "running"), settings(**flags))


def test_the_lines_of_one_rank() -> None:
    events = [{"log": "[rank 1] a"}, {"log": "[rank 11] b"}, {"log": "c"}, {"metric": {}}]
    ends = [{"exit": {}}, {"lost": "gone"}, {"alive": 1.0}]
    assert [e for e in events if log_lines(1)(e)] == events[:1]
    assert [e for e in events if log_lines(None)(e)] == events[:3]
    assert all(log_lines(1)(event) for event in ends)


def test_only_hosts_where_it_goes_on_are_told_to_stop() -> None:
    plan = plan_stop(run_of("failed", "running"))
    assert [(s.host, str(s.do)) for phase in plan.phases for s in phase.steps] == [
        ("node2", "supervise stop /r2")
    ]
    assert plan_stop(run_of("failed", "finished")).empty


def test_a_stop_is_waited_for_as_long_as_the_run_may_take() -> None:
    run = run_of("running", "running")
    assert stop_seconds(run) == 60.0
    nodes = {host: {**node, "limits": {"grace": 300.0}} for host, node in run.nodes.items()}
    assert stop_seconds(replace(run, nodes=nodes)) == 345.0


def test_a_run_is_named_by_position_and_logs_follow_with_one_letter() -> None:
    tasks = {task.name: task for task in TASKS}
    arguments = {name: task.get_arguments() for name, task in tasks.items()}
    named = {name for name, given in arguments.items() if given and given[0].positional}
    assert named == {"status", "logs", "attach", "stop", "collect", "resume", "report"}
    assert {given[0].name for name, given in arguments.items() if name in named} == {"run"}
    assert any(set(one.names) == {"follow", "f"} for one in arguments["logs"])


def test_a_run_that_a_silent_host_may_know_is_not_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = UnreachableError("node2: ssh", found="no answer", expected="an answer", remedy="look")
    known = (run_of("running"),)
    monkeypatch.setattr(following, "gather_runs", lambda _: (known, {"node2": silent}))
    fleet: Any = None
    out = Answer(json=True)
    with pytest.raises(Stop):
        following.gather_wanted(out, settings(run="other"), fleet)
    assert out.exit == 3
    out = Answer(json=True)
    assert following.gather_wanted(out, settings(run="last"), fleet).run == "r"
    assert out.exit == 3  # one host was not asked, all the same


def test_a_flag_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    status = next(task for task in TASKS if task.name == "status")
    flags = dict.fromkeys(one.name for one in status.get_arguments())
    with pytest.raises(SystemExit) as end:
        status(Context(Config()), **{**flags, "run": "--help", "json": False})
    assert end.value.code == 2
    assert "RUN: found --help" in capsys.readouterr().err
