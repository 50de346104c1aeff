"""What hosts said of their environments, judged: only what is whole is ok."""

from __future__ import annotations

from typing import Any

import pytest

from provision.deploy.whole import judge_checked, parse_checked
from provision.findings import Level, Report

ROW = {
    "name": "aa", "complete": True, "files": 23456, "bytes": 1_200_000_000,
    "differing": 0, "differs": [], "over": None,
}  # fmt: skip
FOUR = [{"path": f"lib/{name}.py", "what": "is missing"} for name in "abcd"]


def judged(**changes: Any) -> Report:
    answer = {"current": "aa", "environments": [{**ROW, **changes}]}
    return judge_checked({"node1": parse_checked(answer)})


@pytest.mark.parametrize(
    ("changes", "level", "found"),
    [
        ({}, Level.OK, "23,456 files (1.2 GB), all as installed"),
        (
            {"over": "/opt/conda/bin/python"},
            Level.OK,
            "23,456 files (1.2 GB), all as installed; "
            "the packages of /opt/conda/bin/python are its owner's, and not checked",
        ),
        ({"differing": 1, "differs": FOUR[:1]}, Level.ERROR, "lib/a.py is missing"),
        (
            {"differing": 25, "differs": FOUR},
            Level.ERROR,
            "lib/a.py is missing, lib/b.py is missing, lib/c.py is missing, and 22 more",
        ),
        ({"complete": False}, Level.ERROR, "half-made, and in use"),
        ({"complete": False, "name": "bb"}, Level.WARN, "half-made"),
    ],
)
def test_each_environment_is_judged(changes: dict[str, Any], level: Level, found: str) -> None:
    (finding,) = judged(**changes).findings
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.remedy) == (level is not Level.OK)


def test_one_that_differs_says_how_to_have_it_anew() -> None:
    report = judged(differing=1, differs=FOUR[:1])
    assert report.exit_code == 1
    assert str(report.findings[0]) == (
        "node1: envs/aa: found lib/a.py is missing, expected every file as it was installed: "
        "invoke deploy --anew makes it again, from the lock and wheel that it was made from"
    )
    (older,) = judged(differing=1, differs=FOUR[:1], name="bb").findings
    assert older.remedy == "invoke clean --keep-last 0 removes it"


def test_json_has_every_difference_that_was_named() -> None:
    (one,) = parse_checked(
        {"current": "aa", "environments": [{**ROW, "differing": 4, "differs": FOUR}]}
    )
    assert one.as_json() == {**ROW, "differing": 4, "differs": FOUR, "current": True}
