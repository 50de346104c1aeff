"""Why a job that Slurm took does not start: it may be one that never will.

With EnforcePartLimits=NO, Slurm's default, sbatch takes a job that is beyond its partition's
limits, or whose account may not use it, and leaves it in the queue for ever
(https://slurm.schedmd.com/slurm.conf.html#OPT_EnforcePartLimits).
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from provision.errors import ConfigError
from provision.slurm.submit import (
    RECORD,
    Job,
    apply_command,
    apply_submit,
    read_slurm,
    refusal,
)
from provision.steps import Run

#: Slurm looks at a job when it is submitted; a busy controller a moment later.
SECONDS, POLL = 3.0, 0.3

# https://slurm.schedmd.com/job_reason_codes.html: those that no other job's end can change.
_NEVER = re.compile(
    r"Partition(TimeLimit|NodeLimit|Config)|\w+PerJobLimit|Invalid(Account|QOS)|BadConstraints"
    r"|(Account|QOS)NotAllowed|can't use this partition|not permitted to use this partition"
)
#: What a job has before its turn to be looked at, or until it is looked at more closely.
_FIRST = ("None", "PartitionConfig")


def never_starts(reason: str, command: str = "sbatch") -> ConfigError | None:
    """The error that a reason to wait stands for, if waiting does not help. Pure."""
    if not _NEVER.search(reason):
        return None
    return refusal(f"it would wait for ever: {reason}", 0, command)


def read_reason(job: str, seconds: float = SECONDS) -> str:
    """Why a job waits, in Slurm's words; empty when it does not, or Slurm does not know yet."""
    deadline = time.monotonic() + seconds
    while True:
        done = read_slurm(["squeue", "--noheader", "--jobs", job, "--format=%T|%r"])
        state, _, reason = done.stdout.strip().partition("|")
        if state != "PENDING":
            return ""
        if reason not in _FIRST or time.monotonic() > deadline:
            return "" if reason == "None" else reason
        time.sleep(POLL)


def apply_queued(run_dir: Path, run: str, *, made: bool = False) -> tuple[Job, str]:
    """Submit a run's job file: the job, and why it waits.

    Raises ConfigError, with Slurm's words, when Slurm refuses it, or would never start it: it is
    then taken out of the queue again, and the run's folder is as it was. ``made``: the folder was
    made for this job alone, and goes with it.
    """
    record = run_dir / RECORD
    before = record.read_bytes() if record.exists() else None
    job = apply_submit(run_dir, run)
    reason = read_reason(job.job)
    if error := never_starts(reason):
        apply_command(Run(argv=("scancel", job.job)))
        if made:
            shutil.rmtree(run_dir)
        elif before is None:
            record.unlink()
        else:
            record.write_bytes(before)
        raise error
    return job, reason
