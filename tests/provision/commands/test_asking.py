"""provision/commands/asking.py, checking.py: what a host is asked, and its bad rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.asking import local, placed, target
from provision.commands.checking import bad_rows
from provision.errors import ConfigError
from provision.findings import Level
from provision.settings import make_settings

FOUND: dict[str, Any] = {
    "bad": 3,
    "problems": [
        {"file": "/d/a.jsonl", "line": 7, "found": "invalid JSON", "expected": "one JSON object"},
        {"file": "/d/b.jsonl", "line": 0, "found": "an empty file", "expected": "a row"},
    ],
}


def test_paths_of_this_machine_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert local("a.jsonl, /b") == "/tmp/a.jsonl,/b"
    assert local("hf://datasets/o/n") == "hf://datasets/o/n"
    assert placed(None, "ROWS", "a") == "/tmp/a"


def test_a_path_on_a_host_is_named_in_full() -> None:
    hosts: Any = object()
    assert placed(hosts, "ROWS", "~/a,/b") == "~/a,/b"
    with pytest.raises(ConfigError, match=r"ROWS: found a\.jsonl, expected a path on the hosts"):
        placed(hosts, "ROWS", "a.jsonl")


def test_a_result_overwrites_nothing(tmp_path: Path) -> None:
    given = make_settings({}, {"output": str(tmp_path / "new")}, tmp_path)
    assert target(given, None) == tmp_path / "new"
    (tmp_path / "new").mkdir()
    assert target(given, None) == tmp_path / "new"
    (tmp_path / "new" / "mine").touch()
    with pytest.raises(ConfigError, match=r"--output: found .*/new, which is not empty"):
        target(given, None)
    # invoke.yaml's output is a folder on the hosts
    configured = make_settings({"output": "/data/out"}, {}, tmp_path)
    assert target(configured, tmp_path / "run") == tmp_path / "run"
    with pytest.raises(ConfigError, match="--output: found nothing"):
        target(configured, None)


def test_each_bad_row_is_a_finding_and_a_bad_file_stops_a_run_that_skips_rows() -> None:
    levels = [f.level for f in bad_rows("node1", FOUND, skips=False).findings]
    assert levels == [Level.ERROR] * 3
    row, file, rest = bad_rows("node1", FOUND, skips=True).findings
    assert str(row).startswith("node1: data: found /d/a.jsonl:7: invalid JSON, expected one JSON")
    assert (row.level, file.level) == (Level.WARN, Level.ERROR)
    assert rest.found == "1 more bad rows"
