"""What ``invoke runs`` lists of Slurm jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provision import errors
from provision.errors import ConfigError
from provision.launch.runs import KnownRun
from provision.slurm.jobs import UNASKED, SlurmJob, read_jobs
from provision.slurm.read import Runs, job_of, read_records, read_runs


def read_listed(out: Any, s: Any) -> Runs:
    """Every Slurm run below the shared folder, with its job; none is looked for over SSH.

    Where Slurm can't be asked, a warning says so, and the runs are shown from their files alone.
    """
    shared = s.shared or Path.home()
    records = read_records(shared)
    numbers = [job_of(path) for path in records.values()]
    try:
        jobs = read_jobs(list(dict.fromkeys(numbers)))
    except ConfigError as error:
        out.say(f"warning: Slurm can't be asked about its jobs: {error}")
        out.exit = errors.FINDINGS
        jobs = {number: SlurmJob(job=number, state=UNASKED) for number in numbers}
    return read_runs(shared, records, jobs)


def row(run: KnownRun, job: SlurmJob, now: float) -> tuple[str, ...]:
    """The run in one line, by launch.runs.COLUMNS."""
    name, state, *middle, hosts = run.row(now)
    state = f"waits: {job.reason}" if job.waits else state
    return (name, state, *middle, f"{hosts if job.nodes else ''} (Slurm job {job.job})".strip())
