"""Findings: what fails, with which exit code, and how equal ones fold."""

from __future__ import annotations

import pytest

from provision.findings import SSH, Finding, Level, Report, merged


def finding(host="node1", subject="driver", level=Level.ERROR):
    return Finding(
        host=host, subject=subject, level=level, found="535", expected="580", remedy="upgrade it"
    )


@pytest.mark.parametrize(
    ("level", "code"),
    [(Level.OK, 0), (Level.NOTE, 0), (Level.WARN, 0), (Level.ERROR, 1), (Level.UNKNOWN, 1)],
)
def test_only_errors_and_the_unknown_fail(level, code):
    assert Report(findings=(finding(level=level),)).exit_code == code


def test_a_host_that_cannot_be_reached_exits_3_whatever_else_is_wrong():
    assert Report(findings=(finding(), finding(subject=SSH))).exit_code == 3


def test_a_finding_is_one_line_with_host_found_expected_and_remedy():
    assert str(finding()) == "node1: driver: found 535, expected 580: upgrade it"


def test_equal_findings_of_several_hosts_fold_in_host_order():
    rows = merged([finding("node2"), finding("node1"), finding("node3", level=Level.OK)])
    assert [hosts for hosts, _ in rows] == ["node2,node1", "node3"]


def test_the_json_keys_are_a_contract():
    assert list(finding().as_json()) == [
        "host", "subject", "level", "found", "expected", "remedy"
    ]  # fmt: skip


def test_what_hurts_a_run_is_neither_ok_nor_a_note():
    report = Report(findings=tuple(finding(level=level) for level in Level))
    assert [f.level for f in report.hurting] == [Level.WARN, Level.ERROR, Level.UNKNOWN]
