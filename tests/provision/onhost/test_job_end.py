"""How a job's attempt ended, from folders as torchrun leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.onhost.job_end import NODE_LOST, main

SUMMARY = """\
============================================================
trainer.sft FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:00:00
  host      : node2
  rank      : {rank} (local_rank: {local})
  exitcode  : {code} (pid: 1)
  error_file: <N/A>
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "run1" / "attempt-0"
    for node in range(2):
        (folder / f"node{node}/ranks/none_x/attempt_0").mkdir(parents=True)
    (folder / "nodes").write_text("alpha\nbeta\n")
    return folder


def fail(attempt: Path, rank: int, said: str, code: int = 1) -> None:
    node = attempt / f"node{rank // 2}"
    own = node / "ranks/none_x/attempt_0" / str(rank % 2)
    own.mkdir()
    (own / "stderr.log").write_text(said)
    (node / "node.log").write_text(SUMMARY.format(rank=rank, local=rank % 2, code=code))


def test_the_cause_is_named_before_what_it_caused(
    attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(attempt, 0, "RuntimeError: [gloo] Connection closed by peer\n")
    fail(attempt, 3, "ValueError: no such column\n")
    assert main(str(attempt), 2, 1) == 0
    said = capsys.readouterr().out
    assert "first failure: beta: rank 3 (local_rank 1): exit code 1: ValueError: no such" in said
    ended = json.loads((attempt / "node1/exit.json").read_text())
    assert ended["state"] == "failed"
    assert [rank["rank"] for rank in ended["ranks"]] == [2, 3]


def test_only_consequences_mean_a_lost_node(
    attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(attempt, 0, "RuntimeError: [gloo] Connection closed by peer\n")
    assert main(str(attempt), 2, 1) == NODE_LOST
    assert "no rank of a node that answers is to blame" in capsys.readouterr().out


def test_a_job_that_slurm_ended_blames_no_rank(
    attempt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in range(2):
        (attempt / f"node{node}/node.log").write_text("SignalException: got signal: 15 SIGTERM\n")
    assert main(str(attempt), 2, 143) == 0
    assert "Slurm ended the job" in capsys.readouterr().out
    assert json.loads((attempt / "node0/exit.json").read_text())["state"] == "stopped"


def test_a_job_that_finished(attempt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(attempt), 2, 0) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((attempt / "node1/exit.json").read_text())["state"] == "finished"
