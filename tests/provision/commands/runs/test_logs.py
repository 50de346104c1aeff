"""Whose lines are shown of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.commands.runs.logs import log_lines, shown_hosts
from provision.errors import ConfigError
from provision.launch.runs import KnownRun
from provision.settings import make_settings

MakeRun = Callable[..., KnownRun]


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
def test_whose_lines_are_shown(run_of: MakeRun, flags: dict[str, Any], hosts: list[str]) -> None:
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
    run_of: MakeRun, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        shown_hosts(run_of("running", "running"), settings(**flags))


def test_one_rank_of_many_whose_lines_nothing_marks_is_refused(run_of: MakeRun) -> None:
    run = run_of("running", "running")
    argv = ["python", "-m", "deepspeed.launcher.launch", "--world_info=x"]
    unmarked = replace(run, nodes={h: {**n, "argv": argv} for h, n in run.nodes.items()})
    with pytest.raises(ConfigError, match=r"--rank: found .*deepspeed.*: use --host node2: "):
        shown_hosts(unmarked, settings(rank=3))
    assert list(shown_hosts(unmarked, settings(host="node2"))) == ["node2"]


def test_the_lines_of_one_rank() -> None:
    events = [{"log": "[rank 1] a"}, {"log": "[rank 11] b"}, {"log": "c"}, {"metric": {}}]
    ends = [{"exit": {}}, {"lost": "gone"}, {"alive": 1.0}]
    assert [e for e in events if log_lines(1)(e)] == events[:1]
    assert [e for e in events if log_lines(None)(e)] == events[:3]
    assert all(log_lines(1)(event) for event in ends)
