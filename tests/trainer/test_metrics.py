"""trainer/metrics.py: the record the supervisor reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.metrics import RUN_DIR, Metrics, peak_memory, peak_memory_of_ranks


def test_rank_0_appends_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path / "run"))
    for number in range(2):
        Metrics.of_rank(0).write("step", step=number, loss=float("nan"), lr=float("inf"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [(e["event"], e["step"], e["loss"], e["lr"]) for e in events] == [
        ("step", 0, None, None),
        ("step", 1, None, None),
    ]
    assert all(e["at"] > 1e9 for e in events)


def test_other_ranks_and_runs_without_a_folder_keep_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR, str(tmp_path / "run"))
    Metrics.of_rank(1).write("step")
    monkeypatch.delenv(RUN_DIR)
    Metrics.of_rank(0).write("step")
    assert not list(tmp_path.iterdir())


def test_peak_memory_is_in_bytes() -> None:
    assert 10**7 < (peak_memory()["peak_host_bytes"] or 0) < 10**12


def test_one_process_alone_is_rank_0() -> None:
    (only,) = peak_memory_of_ranks(0)
    assert only["rank"] == 0
    assert 10**7 < (only["peak_host_bytes"] or 0) < 10**12
