"""``collect`` of a run that Slurm runs."""

from __future__ import annotations

from pathlib import Path

from provision.settings import Settings
from provision.show import Answer
from provision.slurm.collect import apply_results
from provision.slurm.jobs import read_job
from provision.slurm.read import job_of, read_run


def apply_collected(out: Answer, s: Settings, run_dir: Path) -> None:
    """Copy what is missing here of the run's files."""
    job = read_job(job_of(run_dir))
    run = read_run(run_dir, job)
    if job.waits or job.runs:
        out.say(f"{run.run} is still running: its files are copied as they are at this moment")
    done = apply_results(run, run_dir, s.runs / run.run, out.say, checkpoints=s.checkpoints)
    out.add(run=run.run, **done.as_json(), slurm=job.as_json())
    out.text(f"{done.folder}: {done.came} files copied, {done.kept} already here")
