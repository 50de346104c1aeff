"""ready.py as it runs on a host: real files, real programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.onhost import ready
from provision.preflight.rows import read_rows_program

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    """A home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def test_a_folder_that_can_be_made_is_writable_and_stays_unmade(tmp_path):
    before = sorted(tmp_path.iterdir())
    answer = ready.folder(str(tmp_path / "a" / "b"))
    assert answer["nearest"] == str(tmp_path)
    assert answer["free"] > 0
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_s_folder_is_looked_for_behind_a_link_to_a_disk_of_the_host(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "ROOT", str(tmp_path / "ours"))
    (tmp_path / "disk").mkdir()
    (tmp_path / "ours").symlink_to(tmp_path / "disk" / "zerofleet")  # made by the first deploy
    answer = ready.folder(str(tmp_path / "ours" / "runs"))
    assert (answer["nearest"], "error" in answer) == (str(tmp_path / "disk"), False)


def test_a_folder_below_a_file_or_a_pseudo_file_system_is_not(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "error" in ready.folder(str(tmp_path / "file" / "out"))
    assert "error" in ready.folder("/proc/zerofleet/out")


def test_rows_are_read_by_the_trainers_own_reader(tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"conversations": [}\n')
    answer = ready.answers({"data": str(data), "rows": read_rows_program(CHECKOUT)})
    assert answer["rows"]["problem_count"] == 1
    assert answer["rows"]["problems"][0]["line"] == 1
    assert answer["data"]["count"] == 1


def test_a_lock_in_the_extensions_folder_is_named(tmp_path):
    lock = tmp_path / "home" / ".cache" / "torch_extensions" / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    assert ready.stale_locks() == []
    lock.touch()
    assert [found["path"] for found in ready.stale_locks()] == [str(lock)]


def test_the_cpu_is_timed():
    assert 0 < ready.cpu_seconds() < 1


def test_only_what_is_asked_is_answered(tmp_path):
    answer = ready.answers({"folders": [str(tmp_path)]})
    assert set(answer) == {"cpu_seconds", "folders", "logout", "locks"}
    json.dumps(answer)
