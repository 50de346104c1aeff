"""Which hosts a deploy goes on with, and how one is said that did not come to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.deploy.deploy import Deploy, left_of, locked, without_failed
from provision.errors import HostError
from provision.findings import Finding, Level, Report
from provision.settings import Settings, make_settings
from provision.show import Answer, Stop
from provision.steps import Plan


def report(level: Level) -> Report:
    one = Finding(
        host="node2", subject="glibc", level=level, found="2.17", expected="2.34", remedy="update"
    )
    return Report(findings=(one,))


def settings(**flags: Any) -> Settings:
    return make_settings({}, flags, Path("/"))


def test_one_host_that_fails_stops_all_unless_others_may_go_on(make_facts) -> None:
    facts = {host: make_facts(host) for host in ("node1", "node2")}
    with pytest.raises(Stop):
        left_of(Answer(json=True), settings(), facts, report(Level.ERROR))
    out = Answer(json=True)
    assert list(left_of(out, settings(partial=True), facts, report(Level.ERROR))) == ["node1"]
    assert out.exit == 1  # not every host has it
    assert list(left_of(Answer(json=True), settings(), facts, report(Level.WARN))) == [*facts]


def test_where_no_host_is_left_there_is_nothing_to_go_on_with(make_facts) -> None:
    with pytest.raises(Stop):
        left_of(
            Answer(json=True),
            settings(partial=True),
            {"node2": make_facts("node2")},
            report(Level.ERROR),
        )


def test_a_dry_run_takes_no_lock() -> None:
    fleet: Any = None
    with locked(Answer(json=True, dry_run=True), settings(), fleet, "deploy x") as hold:
        assert hold.report.ok


def test_hosts_that_failed_are_findings_and_not_deployed(make_facts) -> None:
    facts = {host: make_facts(host) for host in ("node1", "node2")}
    error = HostError("node2: install", found="no space", expected="5 GB", remedy="make room")
    out = Answer(json=True)
    left = without_failed(
        out, Deploy(plan=Plan(title="t", phases=()), facts=facts), {"node2": error}
    )
    assert list(left.facts) == ["node1"]
    assert [finding["host"] for finding in out.values["findings"]] == ["node2"]
    assert out.exit == error.exit_code
