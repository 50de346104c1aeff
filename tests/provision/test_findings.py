"""Findings: what fails, with which exit code, and how equal ones fold."""

from __future__ import annotations

import pytest

from provision.errors import HostError, UnreachableError
from provision.findings import SRUN, SSH, Finding, Judge, Level, Report, merged, merged_errors
from provision.slurm.node import NodeError


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


@pytest.mark.parametrize(
    ("good", "level", "remedy"),
    [(True, Level.OK, ""), (False, Level.ERROR, "do"), (None, Level.UNKNOWN, "do")],
)
def test_what_is_ok_needs_no_remedy_and_what_nobody_knows_is_not_ok(good, level, remedy):
    found = Judge(host="node1").judged("driver", good, 535, "580", "do")
    assert (found.host, found.level, found.found, found.remedy) == ("node1", level, "535", remedy)


@pytest.mark.parametrize(
    ("kind", "what", "subject", "level"),
    [
        (HostError, "node1: python", "facts", Level.UNKNOWN),
        (UnreachableError, "node1: ssh", SSH, Level.ERROR),
        (NodeError, "node1: srun", SRUN, Level.ERROR),
    ],
)
def test_no_answer_is_unknown_and_a_host_that_went_away_is_an_error(kind, what, subject, level):
    error = kind(what, found="none", expected="one", remedy="look there")
    found = Judge(host="node1").unanswered("facts", error)
    assert (found.subject, found.level, found.remedy) == (subject, level, "look there")


def test_what_several_hosts_say_alike_is_one_error_of_its_kind():
    def full(host, free="1 kB"):
        return HostError(f"{host}: disk", found=free, expected="1 GB", remedy="make room")

    errors = {host: full(host) for host in ("node1", "node2", "node4")}
    errors["node3"] = full("node3", free="2 kB")
    gone = {"found": "1 kB", "expected": "1 GB", "remedy": "make room"}
    errors["node5"] = UnreachableError("node5: disk", **gone)
    alike, other, lost = merged_errors(errors)
    assert str(alike) == "node[1-2,4]: disk: found 1 kB, expected 1 GB: make room"
    assert (type(alike), other, lost) == (HostError, errors["node3"], errors["node5"])
    assert merged_errors({}) == ()
