"""The command report: which run is meant, of those that were collected here; what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config
from invoke.context import Context

from provision import errors
from provision.commands.runs.tasks import TASKS
from provision.settings import DEFAULTS

PLAN = {"node_rank": 0, "nproc_per_node": 1, "argv": ["python"], "environ": {}}
FAILURE = {"rank": 0, "local_rank": 0, "at": 150.0, "reason": "ValueError: boom", "lines": [],
           "symptom": False}  # fmt: skip
RANK = {"local_rank": 0, "rank": 0, "state": "failed", "exit": 1}
EXIT = {"node_rank": 0, "state": "failed", "exit": 1, "started_at": 100.0, "ended_at": 160.0,
        "loss": None, "jit_compiled": [], "ranks": [RANK], "first_failure": FAILURE,
        "stopped_by": None}  # fmt: skip

Report = Callable[..., tuple[int, dict[str, Any]]]


def write_run(folder: Path) -> Path:
    """What was collected of a run that failed on its one host."""
    host = folder / "hosts" / "node1"
    host.mkdir(parents=True)
    (host / "plan.json").write_text(json.dumps({"run": folder.name, **PLAN}))
    (host / "exit.json").write_text(json.dumps(EXIT))
    return folder


@pytest.fixture
def report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Report:
    """Runs ``invoke report`` in an empty home: its exit code and JSON."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = next(task for task in TASKS if task.name == "report")

    def run(wanted: str | None = None) -> tuple[int, dict[str, Any]]:
        flags = {"run": wanted, "runs": str(tmp_path / "runs"), "shared": None, "json": True}
        code = 0
        try:
            command(Context(Config({"zerofleet": DEFAULTS})), **flags)
        except SystemExit as end:
            code = int(str(end.code))
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (answer["ok"], answer["exit"]) == (code == 0, code)
        return code, answer

    return run


def test_the_report_of_a_run_that_failed_is_written_and_that_is_well(
    report: Report, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "runs" / "r1")
    code, answer = report("r1")
    assert (code, answer["report"]) == (0, str(folder / "report.html"))
    assert "node1: rank 0 (local_rank 0): ValueError: boom" in Path(answer["report"]).read_text()


@pytest.mark.parametrize("wanted", [None, "last"])
def test_without_a_name_it_is_the_newest_runs(
    report: Report, tmp_path: Path, wanted: str | None
) -> None:
    for name in ("20261121-r", "20261122-r", "20261120-r"):
        write_run(tmp_path / "runs" / name)
    assert report(wanted)[1]["report"] == str(tmp_path / "runs" / "20261122-r" / "report.html")


def test_the_beginning_of_an_id_names_a_run_only_where_one_alone_begins_so(
    report: Report, tmp_path: Path
) -> None:
    for name in ("20261121-a", "20261121-b"):
        write_run(tmp_path / "runs" / name)
    code, answer = report("20261121")
    assert (code, answer["error"]["found"]) == (errors.USAGE, "20261121-a, 20261121-b")
    assert report("20261121-b")[0] == 0


def test_a_run_that_was_not_collected_here_is_told_how_to_come(
    report: Report, tmp_path: Path
) -> None:
    code, answer = report("r9")
    assert (code, answer["error"]["what"]) == (errors.USAGE, "run r9")
    assert answer["error"]["remedy"] == "invoke collect r9, or name --runs FOLDER"
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_plan_has_no_report(report: Report, tmp_path: Path) -> None:
    (write_run(tmp_path / "runs" / "r1") / "hosts" / "node1" / "plan.json").unlink()
    code, answer = report("r1")
    assert (code, answer["error"]["found"]) == (errors.USAGE, "no hosts/*/plan.json in it")
    assert not (tmp_path / "runs" / "r1" / "report.html").exists()


def test_a_job_s_number_names_its_run(report: Report, tmp_path: Path) -> None:
    """Rather than a run that begins so: ids begin with a date."""
    write_run(tmp_path / "runs" / "2026-ssh")
    write_run(tmp_path / "runs" / "20261122-job")
    job = tmp_path / ".zerofleet" / "runs" / "20261122-job"
    job.mkdir(parents=True)
    (job / "job.sbatch").touch()
    (job / "slurm.json").write_text(json.dumps({"job": "2026", "submitted_at": 1.0}))
    expected = tmp_path / "runs" / "20261122-job" / "report.html"
    assert report("2026")[1]["report"] == str(expected)
