"""``stop`` of a run that Slurm runs."""

from __future__ import annotations

import time
from pathlib import Path

from provision import errors
from provision.commands.slurm.status import show_run
from provision.show import Answer
from provision.slurm.jobs import SlurmJob, read_job
from provision.slurm.read import job_of, read_run
from provision.slurm.submit import apply_command
from provision.steps import Phase, Plan, Run, Step

#: Seconds that Slurm may take to end a job (KillWait, and what a file system adds).
STOP_SECONDS = 90.0
#: Seconds between two lines that say so.
SAY_EVERY = 5.0


def plan_stop(run_dir: Path, job: SlurmJob) -> Plan:
    """Tell Slurm, where the job is not over."""
    do = Run(argv=("scancel", job.job))
    step = Step(host="Slurm", do=do, why="every rank gets SIGTERM, then SIGKILL")
    phases = (Phase(name="stop", steps=(step,)),) if job.waits or job.runs else ()
    return Plan(title=f"stop {run_dir.name} (Slurm job {job.job})", phases=phases)


def apply_stop(out: Answer, run_dir: Path) -> None:
    """Cancel the job, and wait until it is gone from all of its nodes."""
    job = read_job(job_of(run_dir))
    plan = plan_stop(run_dir, job)
    out.plan(plan)
    for phase in plan.phases:
        for step in phase.steps:
            apply_command(step.do)
    began = told = time.monotonic()
    while (job.waits or job.runs) and time.monotonic() - began < STOP_SECONDS:
        time.sleep(0.5)
        job = read_job(job.job)
        if time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            out.say(f"still stopping: {job}")
    run = read_run(run_dir, job)
    show_run(out, run, job)
    out.exit = errors.FINDINGS if job.waits or job.runs else errors.OK
