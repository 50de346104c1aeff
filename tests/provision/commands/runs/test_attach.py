"""Attach: a run is followed to its end, or left running; how it ended is told, whatever is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.runs.attach import apply_attach
from provision.launch import followers
from provision.launch.record import apply_kept, read_kept
from provision.launch.runs import KnownRun
from provision.settings import Settings, make_settings
from provision.show import Answer

MakeRun = Callable[..., KnownRun]
FACTS = {"facts": {"columns": ["host"], "rows": [["node1"]]}}


@pytest.fixture
def s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings; and a lost connection is tried again at once."""
    monkeypatch.setattr(followers, "_PAUSE", 0.0)
    return make_settings({}, {"runs": str(tmp_path / "runs")}, tmp_path)


def attach(s: Settings, fleet: Any, run: KnownRun, *, json: bool = True) -> Answer:
    """The answer of attach on the controller that started the run, where its facts were kept."""
    apply_kept(s.runs / run.run, FACTS)
    out = Answer(json=json)
    apply_attach(out, s, fleet, run)
    return out


def test_a_run_that_ended_is_collected_and_reported_at_once(
    near: Any, run_on: MakeRun, s: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = near("node1")
    out = attach(s, fleet, run := run_on(fleet, node1="finished"), json=False)
    shown = capsys.readouterr()
    assert "attached to" not in shown.err
    assert "[node1] hello" in shown.err  # the end of its log, all the same
    folder = s.runs / run.run
    assert (out.exit, out.values["state"], out.values["loss"]) == (0, "finished", [2.5, 1.5])
    assert (folder / "output" / "rank0.safetensors").is_file()
    assert out.values["report"] == str(folder / "report.html")
    assert f"  report:  {folder}/report.html\n" in shown.out
    assert "finished" in (folder / "report.html").read_text()


def test_a_run_that_failed_is_told_with_its_failure(
    near: Any, run_on: MakeRun, s: Settings
) -> None:
    fleet = near("node1")
    out = attach(s, fleet, run_on(fleet, node1="failed"))
    assert (out.exit, out.values["state"]) == (errors.RANK_FAILED, "failed")
    assert out.values["first_failure"]["reason"] == "ValueError: boom"
    assert "ValueError: boom" in Path(out.values["report"]).read_text()


def test_a_failure_that_only_followed_from_a_stop_is_none(
    near: Any, run_on: MakeRun, s: Settings
) -> None:
    fleet = near("node1")
    run = run_on(fleet, node1="failed")
    ended = Path(run.run_dirs["node1"]) / "exit.json"
    told = json.loads(ended.read_text())
    told["first_failure"]["symptom"] = True  # a rank saw its peer go
    ended.write_text(json.dumps(told))
    stop = ended.with_name("stop")
    stop.touch()
    os.utime(stop, (140.0, 140.0))  # ten seconds before that
    # Known before somebody stopped it: attach has to look again.
    out = attach(s, fleet, run)
    assert (out.exit, out.values["state"], out.values["first_failure"]) == (0, "stopped", None)
    assert read_kept(s.runs / run.run)["interrupted"] is True


def test_ctrl_c_leaves_it_running(
    near: Any, run_on: MakeRun, s: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, out, said = near("node1"), Answer(json=True), []
    run = run_on(fleet, node1="running")

    def say(line: str) -> None:
        said.append(line)
        if line == "[node1] hello":
            raise KeyboardInterrupt

    monkeypatch.setattr(out, "say", say)
    apply_attach(out, s, fleet, run)
    assert out.exit == errors.INTERRUPTED
    assert out.values == {"run": run.run, "state": "running"}
    assert said[0] == f"attached to {run.run}; Ctrl-C leaves it running"
    assert said[-1].startswith("detached; it keeps running: invoke attach")
    assert fleet["node1"].did == ["follow"]  # nobody told it to stop, nothing was brought
    assert not s.runs.exists()


def test_a_host_that_is_lost_in_the_middle_is_not_waited_for(
    near: Any, run_on: MakeRun, s: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = near("node1", "node2")
    run = run_on(fleet, node1="finished", node2="running")
    fleet["node2"].lost.append("follow")
    out = attach(s, fleet, run)
    why = out.values["lost"]["node2"]
    assert (out.exit, out.values["state"]) == (errors.RANK_FAILED, "lost")
    assert why.startswith("no connection any more (node2: ssh: found the connection ended")
    assert out.values["not_collected"] == {"node2": why}
    assert fleet["node2"].did == []  # no longer asked anything
    assert (s.runs / run.run / "hosts" / "node1" / "exit.json").is_file()
    assert read_kept(s.runs / run.run)["lost"] == {"node2": why}
    assert f"attached to {run.run}" in capsys.readouterr().err


def test_where_all_hosts_are_lost_that_is_told_without_a_report(
    near: Any, run_on: MakeRun, s: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = near("node1", "node2")
    run = run_on(fleet, node1="running", node2="running")
    for label in run.nodes:
        fleet[label].lost.append("")
    out = Answer(json=True)
    apply_attach(out, s, fleet, run)  # here, nothing was kept of it
    assert (out.exit, out.values["state"]) == (errors.RANK_FAILED, "lost")
    assert list(out.values["lost"]) == ["node1", "node2"]
    assert "report" not in out.values
    assert f"no report: run folder {s.runs / run.run}: found no hosts/" in capsys.readouterr().err
