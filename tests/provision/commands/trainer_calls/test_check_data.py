"""What is shown of bad rows."""

from __future__ import annotations

from typing import Any

from provision.commands.trainer_calls.check_data import bad_rows
from provision.findings import Level

FOUND: dict[str, Any] = {
    "bad": 3,
    "problems": [
        {"file": "/d/a.jsonl", "line": 7, "found": "invalid JSON", "expected": "one JSON object"},
        {"file": "/d/b.jsonl", "line": 0, "found": "an empty file", "expected": "a row"},
    ],
}


def test_each_bad_row_is_a_finding_and_a_bad_file_stops_a_run_that_skips_rows() -> None:
    levels = [f.level for f in bad_rows("node1", FOUND, skips=False).findings]
    assert levels == [Level.ERROR] * 3
    row, file, rest = bad_rows("node1", FOUND, skips=True).findings
    assert str(row).startswith("node1: data: found /d/a.jsonl:7: invalid JSON, expected one JSON")
    assert (row.level, file.level) == (Level.WARN, Level.ERROR)
    assert rest.found == "1 more bad rows"
