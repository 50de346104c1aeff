"""``runs``, ``status`` and ``stop`` of what Slurm runs: its folder, and Slurm's own word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from provision import errors
from provision.errors import ConfigError
from provision.launch.nodes import RUNS
from provision.launch.runs import KnownRun
from provision.launch.status import RANK_COLUMNS, exit_code, rank_rows
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.jobs import UNASKED, SlurmJob, read_job, read_jobs
from provision.slurm.read import Runs, job_of, read_record, read_records, read_run, read_runs
from provision.slurm.submit import apply_command
from provision.steps import Phase, Plan, Run, Step

#: Seconds that Slurm may take to end a job (KillWait, and what a file system adds).
STOP_SECONDS = 90.0
#: Seconds between two lines that say so.
SAY_EVERY = 5.0


def read_slurm_run(s: Settings) -> Path | None:
    """The folder of the Slurm run that the command line names; None where it names none.

    Raises ConfigError where there is no hosts file either.
    """
    wanted, over_ssh = str(s.run), "hosts" in s.given or s.hosts.is_file()
    if wanted == "last" and over_ssh:
        return None  # the last one over SSH
    shared = s.shared or Path.home()
    found = read_record(shared, wanted)
    if found is None and not over_ssh:
        raise ConfigError(
            f"run {wanted}",
            found=f"no such run of a Slurm job below {shared / RUNS}, and no hosts file {s.hosts}",
            expected="one of them",
            remedy="name the folder that the nodes share with --shared, or a hosts file with "
            "--hosts; `invoke runs` lists runs",
        )
    return found


def read_run_of_job(s: Settings) -> str:
    """The run whose job's number the command line has; empty where it has none."""
    found = str(s.run).isdecimal() and read_record(s.shared or Path.home(), str(s.run))
    return found.name if found else ""


def apply_status(out: Answer, run_dir: Path) -> None:
    """Say how a Slurm run does."""
    job = read_job(job_of(run_dir))
    _show(out, read_run(run_dir, job), job)


def _show(out: Answer, run: KnownRun, job: SlurmJob) -> None:
    out.add(**run.as_json(), slurm=job.as_json())
    out.text(str(job))
    out.text("\n".join(run.lines()))
    if not run.running and not job.waits:  # nobody looks at processes on the nodes
        out.cells(RANK_COLUMNS, rank_rows(run))
    if run.ended:
        out.text(str(run.ended))
    out.exit = errors.OK if job.waits else exit_code(run)


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
    _show(out, run, job)
    out.exit = errors.FINDINGS if job.waits or job.runs else errors.OK


def shown(out: Any, s: Any, what: str) -> bool:
    """Do this with the Slurm run that is meant; False where none is: it is one over SSH."""
    run_dir = read_slurm_run(s)
    if run_dir is None:
        return False
    from provision.commands.slurm_following import apply_attach, apply_logs
    from provision.commands.slurm_results import apply_collected, apply_resumed

    match what:
        case "status":
            apply_status(out, run_dir)
        case "stop":
            apply_stop(out, run_dir)
        case "logs":
            apply_logs(out, s, run_dir)
        case "attach":
            apply_attach(out, s, run_dir)
        case "collect":
            apply_collected(out, s, run_dir)
        case _:
            apply_resumed(out, s, run_dir)
    return True


def read_listed(out: Any, s: Any) -> Runs:
    """Every Slurm run below the shared folder, with its job; none is looked for over SSH.

    Where Slurm can't be asked, that is said, and the runs are told of by their files alone.
    """
    shared = s.shared or Path.home()
    records = read_records(shared)
    numbers = [job_of(path) for path in records.values()]
    try:
        jobs = read_jobs(list(dict.fromkeys(numbers)))
    except ConfigError as error:
        out.say(f"warning: Slurm can't be asked of its jobs: {error}")
        out.exit = errors.FINDINGS
        jobs = {number: SlurmJob(job=number, state=UNASKED) for number in numbers}
    return read_runs(shared, records, jobs)


def row(run: KnownRun, job: SlurmJob, now: float) -> tuple[str, ...]:
    """The run in one line, by launch.runs.COLUMNS."""
    name, state, *middle, hosts = run.row(now)
    state = f"waits: {job.reason}" if job.waits else state
    return (name, state, *middle, f"{hosts if job.nodes else ''} (Slurm job {job.job})".strip())
