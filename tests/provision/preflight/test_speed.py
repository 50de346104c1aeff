"""CPU speed beside the others': what is accused, and only when it lasts."""

from __future__ import annotations

import pytest

from provision.errors import UnreachableError
from provision.findings import Level
from provision.preflight.ready import _quicker
from provision.preflight.speed import slowness, speed_findings, suspects


def answers(*seconds):
    return {f"node{n}": {"cpu_seconds": value} for n, value in enumerate(seconds, 1)}


@pytest.mark.parametrize(
    ("last", "level", "text"),
    [
        (0.0019, Level.OK, "less than 2 times"),
        (0.003, Level.WARN, "3.0 times as long as others"),
        (0.005, Level.ERROR, "5.0 times as long as others"),
    ],
)
def test_a_slow_cpu_is_told_with_its_ratio(last, level, text):
    *others, found = speed_findings(answers(0.001, 0.001, 0.001, last))
    assert {one.level for one in others} == {Level.OK}
    assert (found.host, found.level) == ("node4", level)
    assert found.found.startswith(text)


def test_a_single_host_and_one_without_an_answer_accuse_nobody():
    assert slowness(answers(0.5)) == {}
    lost = UnreachableError("node2", found="no answer", expected="an answer", remedy="look there")
    assert suspects({**answers(0.001, 0.001, 0.009), "node2": lost}) == ("node3",)


def test_who_is_slow_is_measured_twice_and_its_better_time_counts():
    first, error = (
        {"cpu_seconds": 0.003, "logout": {}},
        UnreachableError("node1", found="gone", expected="an answer", remedy="look there"),
    )
    assert _quicker(first, {"cpu_seconds": 0.001}) == {"cpu_seconds": 0.001, "logout": {}}
    assert _quicker(first, {"cpu_seconds": 0.004})["cpu_seconds"] == 0.003
    assert _quicker(first, None) is first
    assert _quicker(first, error) is first
    assert _quicker(error, None) is error
