"""``status`` of a run that Slurm runs."""

from __future__ import annotations

from pathlib import Path

from provision import errors
from provision.launch.runs import KnownRun
from provision.launch.status import RANK_COLUMNS, exit_code, rank_rows
from provision.show import Answer
from provision.slurm.jobs import SlurmJob, read_job
from provision.slurm.read import job_of, read_run


def apply_status(out: Answer, run_dir: Path) -> None:
    """Show how a Slurm run is doing."""
    job = read_job(job_of(run_dir))
    show_run(out, read_run(run_dir, job), job)


def show_run(out: Answer, run: KnownRun, job: SlurmJob) -> None:
    """The run and its job, in both forms; the exit code is the run's."""
    out.add(**run.as_json(), slurm=job.as_json())
    out.text(str(job))
    out.text("\n".join(run.lines()))
    if not run.running and not job.waits:  # nobody looks at processes on the nodes
        out.cells(RANK_COLUMNS, rank_rows(run))
    if run.ended:
        out.text(str(run.ended))
    out.exit = errors.OK if job.waits else exit_code(run)
