"""What is brought of a run, and what a person is told that did not come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.runs.collect import apply_collected
from provision.settings import Settings, make_settings
from provision.show import Answer


def settings(tmp_path: Path, **flags: Any) -> Settings:
    return make_settings({}, {"runs": str(tmp_path / "runs"), **flags}, tmp_path)


def test_a_run_comes_whole_and_once(
    near: Any, run_on: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = near("node1", "node2")
    run = run_on(fleet, node1="finished", node2="finished")
    folder = tmp_path / "runs" / run.run
    out = Answer(json=False)
    apply_collected(out, settings(tmp_path), fleet, run)
    shown = capsys.readouterr()
    assert shown.out == f"{folder}: 8 files copied, 0 already here\n"
    assert (out.exit, out.values["run"], out.values["not_collected"]) == (0, run.run, {})
    assert (folder / "hosts" / "node2" / "exit.json").is_file()
    assert sorted(path.name for path in (folder / "output").iterdir()) == [
        "rank0.safetensors",
        "rank1.safetensors",
    ]
    apply_collected(out, settings(tmp_path), fleet, run)
    shown = capsys.readouterr()
    assert shown.out == f"{folder}: 0 files copied, 8 already here\n"
    assert "still running" not in shown.err
    assert "not from every host" not in shown.err
    assert (out.exit, out.values["files"], out.values["bytes"]) == (0, 0, 0)


def test_of_a_run_that_goes_on_it_is_said_that_more_may_come(
    near: Any, run_on: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, out = near("node1"), Answer(json=True)
    apply_collected(out, settings(tmp_path), fleet, run := run_on(fleet, node1="running"))
    said = f"{run.run} is still running: its files are copied as they are at this moment"
    assert said in capsys.readouterr().err
    assert (out.exit, out.values["files"]) == (0, 3)


def test_a_host_that_is_lost_in_the_middle_is_told_and_the_others_files_come(
    near: Any, run_on: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, out = near("node1", "node2"), Answer(json=True)
    run = run_on(fleet, node1="finished", node2="finished")
    fleet["node2"].lost.append("/")  # it has listed its files, and gives none
    apply_collected(out, settings(tmp_path), fleet, run)
    assert "collect" in fleet["node2"].did
    assert "not from every host: 1 of 2 missing" in capsys.readouterr().err
    assert (out.exit, list(out.values["not_collected"])) == (errors.FINDINGS, ["node2"])
    assert (tmp_path / "runs" / run.run / "output" / "rank0.safetensors").is_file()


def test_a_host_that_did_not_tell_of_the_run_is_missing_too(
    near: Any, run_on: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, out = near("node1"), Answer(json=True)
    apply_collected(out, settings(tmp_path), fleet, run_on(fleet, nnodes=3, node1="finished"))
    assert "not from every host: 2 of 3 missing" in capsys.readouterr().err
    assert (out.exit, out.values["not_collected"]) == (errors.FINDINGS, {})


def test_what_went_wrong_before_stays_the_exit_code(
    near: Any, run_on: Callable[..., Any], tmp_path: Path
) -> None:
    fleet, out = near("node1"), Answer(json=True)
    out.exit = errors.UNREACHABLE  # as a host that could not be asked for its runs leaves it
    apply_collected(out, settings(tmp_path), fleet, run_on(fleet, nnodes=2, node1="finished"))
    assert out.exit == errors.UNREACHABLE


def test_where_nothing_is_left_on_any_host_nothing_comes(
    near: Any, run_on: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, out = near("node1"), Answer(json=False)
    run = run_on(fleet, node1="finished")
    Path(run.run_dirs["node1"]).rename(tmp_path / "cleaned")
    apply_collected(out, settings(tmp_path), fleet, run)
    assert capsys.readouterr().out.endswith(": 0 files copied, 0 already here\n")
    assert out.values["files"] == 0


def test_checkpoints_come_only_when_they_are_asked_for(
    near: Any, run_on: Callable[..., Any], tmp_path: Path
) -> None:
    fleet, out = near("node1"), Answer(json=True)
    run = run_on(fleet, node1="finished")
    kept = Path(run.outputs["node1"]) / "checkpoint-5"
    kept.mkdir()
    (kept / "shard").write_bytes(b"s")
    here = tmp_path / "runs" / run.run / "output" / "checkpoint-5" / "shard"
    apply_collected(out, settings(tmp_path), fleet, run)
    assert not here.exists()
    apply_collected(out, settings(tmp_path, checkpoints=True), fleet, run)
    assert here.is_file()
