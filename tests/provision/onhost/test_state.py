"""How a node stands, by real folders and processes; whoever asks is told the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from provision.onhost import follow, runs, state, supervise
from provision.onhost.folder import write_json
from provision.onhost.processes import read_boot_id, read_identity


def record(folder: Path, **other: Any) -> None:
    me = read_identity(os.getpid())
    write_json(str(folder / "record.json"), {"boot_id": read_boot_id(), "supervisor": me, **other})


def test_a_node_without_a_record_never_started(tmp_path: Path) -> None:
    found = state.read_state(str(tmp_path))
    assert found == {"state": "never started", "why": "", "record": None, "exit": None}


def test_a_node_runs_while_the_very_process_of_its_record_does(tmp_path: Path) -> None:
    record(tmp_path)
    assert state.read_state(str(tmp_path))["state"] == state.RUNNING
    reused = {**(read_identity(os.getpid()) or {}), "start_time": 1}
    record(tmp_path, supervisor=reused)
    found = state.read_state(str(tmp_path))
    assert found["state"] == state.LOST
    assert found["why"] == f"the supervisor (pid {os.getpid()}) died before the run ended"
    record(tmp_path, boot_id="another")
    assert state.read_state(str(tmp_path))["why"] == "the host was restarted during the run"


@pytest.mark.parametrize("boot_id", ["another", None])
def test_exit_json_has_the_last_word(tmp_path: Path, boot_id: str | None) -> None:
    record(tmp_path, boot_id=boot_id or read_boot_id())
    write_json(str(tmp_path / "exit.json"), {"state": "finished"})
    found = state.read_state(str(tmp_path))
    assert (found["state"], found["why"]) == (state.FINISHED, "")


def test_whoever_asks_is_told_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise.node_state(str(tmp_path))["state"] == "never started"
    assert runs.read_standing(str(tmp_path))["state"] == "never started"
    record(tmp_path, boot_id="another")
    for tell in (supervise.node_state, runs.read_standing):
        assert tell(str(tmp_path))["why"] == "the host was restarted during the run"
    assert follow.main([str(tmp_path)]) == 1
    (event,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert event == {"lost": "the host was restarted during the run"}
