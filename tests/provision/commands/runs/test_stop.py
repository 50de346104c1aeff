"""Who is told to stop, and how long that may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from provision.commands.runs.stop import plan_stop, stop_seconds
from provision.launch.runs import KnownRun

MakeRun = Callable[..., KnownRun]


def test_only_hosts_where_it_goes_on_are_told_to_stop(run_of: MakeRun) -> None:
    plan = plan_stop(run_of("failed", "running"))
    assert [(s.host, str(s.do)) for phase in plan.phases for s in phase.steps] == [
        ("node2", "supervise stop /r2")
    ]
    assert plan_stop(run_of("failed", "finished")).empty


def test_a_run_that_stops_already_is_told_to_wait_for_no_checkpoint(run_of: MakeRun) -> None:
    run = run_of("running", "running")
    nodes = {host: {**node, "stopping": True} for host, node in run.nodes.items()}
    steps = [s for phase in plan_stop(replace(run, nodes=nodes)).phases for s in phase.steps]
    assert [str(step.do) for step in steps] == ["supervise kill /r1", "supervise kill /r2"]


def test_a_stop_is_waited_for_as_long_as_the_run_may_take(run_of: MakeRun) -> None:
    run = run_of("running", "running")
    assert stop_seconds(run) == 60.0
    nodes = {host: {**node, "limits": {"grace": 300.0}} for host, node in run.nodes.items()}
    assert stop_seconds(replace(run, nodes=nodes)) == 345.0
