"""What Slurm would refuse, or let wait for ever: one clear line, with Slurm's own words, no job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.slurm.conftest import Desk

REFUSED = {
    "unknown partition": (["--partition=nope"], "invalid partition specified: nope"),
    "more GPUs than a node has": (["--accelerator=cuda", "--gpus=3"], "node configuration is not"),
    "more memory than a node has": (["--mem=99G"], "node configuration is not"),
    "a type of GPU that none has": (["--accelerator=cuda", "--gpus=h100:2"], "not available"),
    "more nodes than there are": (["--nodes=5"], "Requested node configuration is not available"),
    "more time than its partition gives": (["--time=100:00:00"], "for ever: PartitionTimeLimit"),
    "no account": (["--partition=paid"], "can't use this partition (paid allows physics)"),
    "quotes in a name": (["--job-name=my 'best' \"run\""], "--job-name: found"),
    "a carriage return": (["--partition=debug\r"], r"--partition: found 'debug\r'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, desk: Desk) -> None:
    words, expected = REFUSED[case]
    done = desk.invoke(*desk.asked(*desk.training, *words), "--submit")
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert expected in line
    assert "Traceback" not in done.stderr
    assert desk.slurm.say("squeue", "--noheader") == ""


def test_a_job_that_has_to_wait_is_told_why(desk: Desk) -> None:
    first = desk.script("wait", "--nodes=4", "--exclusive")
    done = desk.invoke(*desk.asked(*desk.training, "--nodes=4", "--exclusive"), "--submit")
    assert done.returncode == 0, done.stderr
    assert "it waits: Resources" in done.stderr
    number = done.stdout.strip()
    status = desk.about("status", number)
    assert status.returncode == 0, status.stderr
    assert status.stdout.startswith(f"Slurm job {number}: PENDING (Resources)\n")
    (listed,) = [r for r in desk.about("runs").stdout.splitlines() if f"job {number})" in r]
    assert "waits: Resources" in listed
    stopped = desk.about("stop", number)
    assert stopped.returncode == 0, stopped.stderr
    assert f"Slurm job {number}: CANCELLED" in stopped.stdout
    desk.slurm.say("scancel", first.number)
    assert first.ended() == "CANCELLED"
    desk.slurm.mend()


def test_without_slurm_the_file_is_written_and_submitting_is_refused(
    desk: Desk, tmp_path: Path
) -> None:
    for tool in Path("/usr/bin").iterdir():
        if tool.name != "sbatch":
            (tmp_path / tool.name).symlink_to(tool)
    path = {"PATH": str(tmp_path)}
    words = desk.asked(*desk.training)
    assert desk.invoke(*words, environ=path).stdout.startswith("#!/bin/bash\n")
    done = desk.invoke(*words, "--submit", environ=path)
    assert done.returncode == 2
    assert "error: sbatch: found no such command on this machine" in done.stderr


def test_a_dry_run_asks_slurm_and_submits_nothing(desk: Desk) -> None:
    done = desk.invoke(*desk.asked(*desk.training), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Slurm takes it: it would start at " in done.stderr
    assert "4 CPUs on node[1-2]" in done.stderr
    assert desk.slurm.say("squeue", "--noheader") == ""


def test_a_file_is_written_and_its_log_s_folder_is_there(desk: Desk) -> None:
    """sbatch takes a job whose log's folder is missing; Slurm then fails it without a word."""
    shared = desk.folder / "not" / "yet"
    words = desk.asked(*desk.training, f"--shared={shared}", f"--file={desk.folder}/job.sbatch")
    done = desk.invoke(*words)
    assert done.returncode == 0, done.stderr
    text = (desk.folder / "job.sbatch").read_text()
    (log,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
    (run,) = (shared / ".zerofleet" / "runs").iterdir()
    assert log == f"#SBATCH --output={run}/job.log"
    assert "\r" not in text


def test_nodes_of_a_partition_are_a_hosts_file(desk: Desk) -> None:
    done = desk.invoke("hosts", "--slurm=debug")
    assert done.returncode == 0, done.stderr
    lines = [line.split("  # ")[0] for line in done.stdout.splitlines()]
    assert lines == [f"node{number} slots=2" for number in (1, 2, 3, 4)]
    refused = desk.invoke("hosts", "--slurm=nope")
    assert refused.returncode == 2
    assert "error: --slurm nope: found Partition nope not found" in refused.stderr


def test_a_run_that_nobody_submitted_is_none(desk: Desk) -> None:
    done = desk.about("status", "999")
    assert done.returncode == 2
    assert "error: run 999: found no hosts file" in done.stderr
    assert "no such run of a Slurm job below" in done.stderr
