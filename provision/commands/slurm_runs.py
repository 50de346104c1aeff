"""``status``, ``logs`` and ``stop`` of a run that Slurm runs: its folder, and Slurm's own word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from provision import errors
from provision.commands.following import log_lines, require_an_end, shown_hosts
from provision.launch.runs import KnownRun
from provision.launch.status import RANK_COLUMNS, exit_code, rank_rows
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.jobs import SlurmJob, read_job
from provision.slurm.read import job_of, read_attempt, read_record, read_run
from provision.slurm.submit import apply_command
from provision.steps import Phase, Plan, Run, Step

#: Seconds that Slurm may take to end a job (KillWait, and what a file system adds).
STOP_SECONDS = 90.0


def read_slurm_run(s: Settings) -> Path | None:
    """The folder of the Slurm run that the command line names; None where it names none."""
    wanted = str(s.run)
    if wanted == "last" and ("hosts" in s.given or s.hosts.is_file()):
        return None  # the last one over SSH
    return read_record(s.shared or Path.home(), wanted)


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


def apply_logs(out: Answer, s: Settings, run_dir: Path) -> None:
    """Show what the ranks of the latest attempt printed; with --follow as it comes."""
    require_an_end(out, s)
    job = read_job(job_of(run_dir))
    run = read_run(run_dir, job)
    files = _log_files(run_dir, run, s)
    lines, read = {}, {}
    for host, path in files.items():
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        read[host] = len(whole.encode())
        lines[host] = _wanted(whole, s)[-s.tail if s.tail else 0 :]
    out.add(run=run.run, lines=lines, job_log=str(run_dir / "job.log"))
    for host, some in lines.items():
        for line in some:
            out.text(f"[{host}] {line}")
    if s.follow:
        _follow(out, s, run_dir, files, read)


def _log_files(run_dir: Path, run: KnownRun, s: Settings) -> dict[str, Path]:
    """The job's own log, and that of each node that is wanted."""
    attempt = read_attempt(run_dir)
    hosts = list(run.nodes)
    nodes = (
        {h: attempt / f"node{hosts.index(h)}" / "node.log" for h in shown_hosts(run, s)}
        if attempt
        else {}
    )
    own = s.host is None and s.rank is None
    return {**({"job": run_dir / "job.log"} if own else {}), **nodes}


def _wanted(text: str, s: Settings) -> list[str]:
    shows = log_lines(s.rank)
    return [line for line in text.splitlines() if shows({"log": line})]


def _follow(
    out: Answer, s: Settings, run_dir: Path, files: dict[str, Path], read: dict[str, int]
) -> None:
    """Show new lines until the job is over. A later attempt has logs of its own."""
    attempt, over = read_attempt(run_dir), False
    asked = time.monotonic()
    while not over:
        if time.monotonic() - asked > 5:
            job, asked = read_job(job_of(run_dir)), time.monotonic()
            over = not (job.waits or job.runs)
            if read_attempt(run_dir) != attempt:
                attempt = read_attempt(run_dir)
                files = _log_files(run_dir, read_run(run_dir, job), s)
                read = {host: seen if host == "job" else 0 for host, seen in read.items()}
        for host, path in files.items():
            with path.open("rb") if path.exists() else Path("/dev/null").open("rb") as file:
                file.seek(read.get(host, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            read[host] = read.get(host, 0) + len(whole)
            for line in _wanted(whole.decode("utf-8", "replace"), s):
                out.text(f"[{host}] {line}")
        time.sleep(0.5)


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
    over = time.monotonic() + STOP_SECONDS
    while (job.waits or job.runs) and time.monotonic() < over:
        time.sleep(0.5)
        job = read_job(job.job)
    run = read_run(run_dir, job)
    _show(out, run, job)
    out.exit = errors.FINDINGS if job.waits or job.runs else errors.OK


def shown(out: Any, s: Any, what: str) -> bool:
    """Do this with the Slurm run that is meant; False where none is: it is one over SSH."""
    run_dir = read_slurm_run(s)
    if run_dir is None:
        return False
    if what == "status":
        apply_status(out, run_dir)
    elif what == "logs":
        apply_logs(out, s, run_dir)
    else:
        apply_stop(out, run_dir)
    return True
