"""Jobs as squeue and sacct (slurmdbd, 22.05; recorded) tell of them, and whom is believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.slurm.jobs import (
    FORGOTTEN,
    parse_past,
    parse_queue,
    read_job,
    read_jobs,
)

#: One that ended well, one badly; cancelled in the queue; requeued, then cancelled; a lost node.
SACCT = """\
1|COMPLETED|node[1-2]|00:00:00|00:05:00
2|FAILED|node1|00:00:00|00:05:00
3|REQUEUED|node[1-4]|00:00:03|00:05:00
4|CANCELLED by 0|None assigned|00:00:00|00:05:00
3|CANCELLED by 0|node[1-4]|00:00:11|00:05:00
5|RUNNING|node1|00:01:20|00:01:00
6|NODE_FAIL|node4|00:00:30|00:05:00
"""
SQUEUE = """\
5|RUNNING|node1|1:20|1:00|None
7|PENDING||0:00|1-00:00:00|Job's account not permitted to use this partition (paid allows physics not root)
"""  # noqa: E501
NO_JOB = "slurm_load_jobs error: Invalid job id specified"


def test_what_accounting_says() -> None:
    found = parse_past(SACCT)
    assert {job: one.state for job, one in found.items()} == {
        "1": "COMPLETED", "2": "FAILED", "3": "CANCELLED", "4": "CANCELLED", "5": "RUNNING",
        "6": "NODE_FAIL",
    }  # fmt: skip
    assert (found["3"].elapsed, found["3"].nodes) == ("00:00:11", "node[1-4]")
    assert str(found["4"]) == "Slurm job 4: CANCELLED"  # on no nodes
    assert str(found["5"]) == "Slurm job 5: RUNNING on node1, 00:01:20 of 00:01:00"


def test_what_the_queue_says() -> None:
    found = parse_queue(SQUEUE)
    assert str(found["5"]) == "Slurm job 5: RUNNING on node1, 1:20 of 1:00"
    assert found["7"].waits
    assert found["7"].reason.endswith("(paid allows physics not root)")


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Slurm's commands are; ``answers`` writes one."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def answers(bin_dir: Path, command: str, said: str, code: int = 0) -> None:
    path, stream = bin_dir / command, ">&2" if code else ""
    (bin_dir / f"{command}.txt").write_text(said)
    path.write_text(f'#!/bin/sh\necho "$@" >>"$0.asked"\ncat "$0.txt" {stream}\nexit {code}\n')
    path.chmod(0o755)


def test_accounting_is_asked_of_what_the_controller_has_forgotten(bin_dir: Path) -> None:
    answers(bin_dir, "squeue", SQUEUE)
    answers(bin_dir, "scontrol", NO_JOB, 1)
    answers(bin_dir, "sacct", SACCT)
    found = read_jobs(["2", "5", "7", "99"])
    assert {job: one.state for job, one in found.items()} == {
        "2": "FAILED", "5": "RUNNING", "7": "PENDING", "99": FORGOTTEN,
    }  # fmt: skip
    assert "--jobs 2,99 " in (bin_dir / "sacct.asked").read_text()
    assert read_job("6").state == "NODE_FAIL"
    answers(bin_dir, "squeue", NO_JOB, 1)
    assert read_jobs(["6"])["6"].state == "NODE_FAIL"


def test_without_accounting_a_forgotten_job_is_unknown_and_why(bin_dir: Path) -> None:
    answers(bin_dir, "scontrol", NO_JOB, 1)
    answers(bin_dir, "sacct", "Slurm accounting storage is disabled", 1)
    assert str(read_job("1")) == (
        "Slurm job 1: unknown to Slurm (Slurm accounting storage is disabled)"
    )


def test_a_controller_that_does_not_answer_is_an_error_and_no_lost_job(bin_dir: Path) -> None:
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    answers(bin_dir, "scontrol", said, 1)
    answers(bin_dir, "squeue", said, 1)
    for asked in (lambda: read_job("1"), lambda: read_jobs(["1", "2"])):
        with pytest.raises(ConfigError, match="Unable to contact slurm controller"):
            asked()


def test_no_jobs_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert read_jobs([]) == {}
