"""What is kept beside a run for its report; a report that fails hides nothing of how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.commands.train.report import apply_attached, apply_reported, kept_facts
from provision.launch.failure import parse_outcome
from provision.launch.record import apply_kept, read_kept
from provision.launch.results import RunResult
from provision.launch.runs import KnownRun
from provision.show import Answer

FACTS = Path(__file__).parents[3] / "facts" / "probe-debian12-cpu.json"
EXIT: dict[str, Any] = {
    "node_rank": 0, "state": "finished", "exit": 0, "started_at": 1.0, "ended_at": 2.0,
    "loss": None, "jit_compiled": [], "first_failure": None, "stopped_by": None,
    "ranks": [{"local_rank": 0, "rank": 0, "state": "finished", "exit": 0}],
}  # fmt: skip
PLAN = {"run": "r", "node_rank": 0, "nproc_per_node": 1, "argv": ["python"], "environ": {}}


def result_of(folder: Path, *lost: str) -> RunResult:
    """A run of which node1 finished and sent its files."""
    host = folder / "hosts" / "node1"
    host.mkdir(parents=True)
    (host / "plan.json").write_text(json.dumps(PLAN))
    (host / "exit.json").write_text(json.dumps(EXIT))
    outcome = parse_outcome("r", {"node1": EXIT}, lost=dict.fromkeys(lost, "silent"))
    return RunResult(
        outcome=outcome, interrupted=False, collected=folder, adapter=folder, optimizer=None
    )


@pytest.fixture
def fleet(near: Any) -> Any:
    """Two hosts that answer the probe as one was recorded."""
    found = near("node1", "node2")
    for label in ("node1", "node2"):
        found[label].answers["probe"] = json.loads(FACTS.read_text())
    return found


KNOWN = KnownRun(run="r", nodes={"node1": {}, "node2": {}}, clock_offsets={"node2": 3.0})


def test_hosts_are_kept_as_a_wide_table(make_facts: Callable[..., Any]) -> None:
    kept = kept_facts({host: make_facts(host) for host in ("node1", "node2")})["facts"]
    assert kept["columns"][0] == "host"
    assert "kernel" in kept["columns"]  # as with --wide
    assert kept["rows"][0][0] == "node1,node2"  # equal hosts on one line
    json.dumps(kept)


def test_a_report_knows_what_no_host_s_files_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = Answer(json=False), result_of(tmp_path / "r", "node2")
    apply_reported(out, result, {"clock_offsets": {"node1": 1.0}})
    kept = {"lost": {"node2": "silent"}, "interrupted": False, "clock_offsets": {"node1": 1.0}}
    assert read_kept(tmp_path / "r") == kept
    path = tmp_path / "r" / "report.html"
    assert out.values == {"report": str(path)}
    assert capsys.readouterr().out == f"  report:  {path}\n"
    assert "silent" in path.read_text()


def no_plan(folder: Path) -> None:
    (folder / "hosts" / "node1" / "plan.json").unlink()


def a_folder_in_its_place(folder: Path) -> None:
    (folder / "report.html.partial").mkdir()


def a_file_for_a_folder(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.touch()


@pytest.mark.parametrize("spoil", [no_plan, a_folder_in_its_place, a_file_for_a_folder])
def test_a_report_that_can_t_be_written_is_said_and_the_outcome_stands(
    spoil: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = Answer(json=True), result_of(tmp_path / "r")
    out.outcome(result)
    spoil(tmp_path / "r")
    apply_reported(out, result, {})
    assert (out.exit, out.values["state"]) == (0, "finished")
    assert "report" not in out.values
    assert capsys.readouterr().err.startswith("no report: ")


def test_what_hosts_were_at_the_start_is_not_asked_again(fleet: Any, tmp_path: Path) -> None:
    result = result_of(tmp_path / "r")
    then = {"facts": {"columns": ["host"], "rows": [["node1, then"]]}}
    apply_kept(tmp_path / "r", then)
    apply_attached(Answer(json=True), fleet, KNOWN, result, stopping=False)
    assert [fleet[label].did for label in ("node1", "node2")] == [[], []]
    assert read_kept(tmp_path / "r")["facts"] == then["facts"]
    assert "node1, then" in (tmp_path / "r" / "report.html").read_text()


def test_of_a_run_that_began_elsewhere_hosts_that_are_left_say_what_they_are(
    fleet: Any, tmp_path: Path
) -> None:
    result = result_of(tmp_path / "r", "node2")
    apply_attached(Answer(json=True), fleet, KNOWN, result, stopping=True)
    assert [fleet[label].did for label in ("node1", "node2")] == [["probe"], []]
    kept = read_kept(tmp_path / "r")
    assert [row[0] for row in kept["facts"]["rows"]] == ["node1"]
    assert (kept["interrupted"], kept["clock_offsets"]) == (True, {"node2": 3.0})


def test_a_host_that_is_lost_only_then_is_left_out(fleet: Any, tmp_path: Path) -> None:
    fleet["node2"].lost.append("probe")
    out = Answer(json=True)
    apply_attached(out, fleet, KNOWN, result_of(tmp_path / "r"), stopping=False)
    assert [row[0] for row in read_kept(tmp_path / "r")["facts"]["rows"]] == ["node1"]
    assert (out.exit, out.values["report"]) == (0, str(tmp_path / "r" / "report.html"))
