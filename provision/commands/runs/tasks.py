"""The commands about runs that were started: from any controller that reaches their hosts.

What one of them works with is imported where it begins: no other command waits for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from provision import errors
from provision.commands.connect import connected_fleet
from provision.commands.flags import FLEET, LIMITS, LOCK, WHEEL, command
from provision.commands.help_texts import FOR_RESUME, FOR_RUNS


@command(*FLEET, "shared", helps=FOR_RUNS)
def runs(out: Any, s: Any) -> None:
    """List the runs on the hosts, whoever started them, and those of Slurm jobs.

    Example: invoke runs
    """
    from provision.commands.slurm.listing import read_listed, row
    from provision.fleet import error_report
    from provision.launch.runs import COLUMNS, KnownRun, gather_runs

    of_jobs = read_listed(out, s)
    found: tuple[KnownRun, ...] = ()
    if "hosts" in s.given or s.hosts.is_file() or not of_jobs:
        with connected_fleet(s) as fleet:
            found, failed = gather_runs(fleet)
        out.report(error_report(failed))
    now, jobs = time.time(), {run.run for run, _ in of_jobs}
    found = tuple(run for run in found if run.run not in jobs)  # a HOME that hosts share
    listed = [run.as_json() | {"slurm": job.as_json()} for run, job in of_jobs]
    out.add(runs=[*(run.as_json() for run in found), *listed])
    out.cells(COLUMNS, [*(r.row(now) for r in found), *(row(r, job, now) for r, job in of_jobs)])


@command("run", *FLEET, "shared", helps=FOR_RUNS)
def status(out: Any, s: Any) -> None:
    """Show how a run is doing: ranks, step, loss, rate, time left; or how it ended, and why.

    Example: invoke status last
    """
    from provision.commands.runs.find import gather_wanted
    from provision.commands.slurm.find import read_slurm_run
    from provision.commands.slurm.status import apply_status
    from provision.launch.runs import gather_run
    from provision.launch.status import RANK_COLUMNS, exit_code, rank_rows

    if run_dir := read_slurm_run(s):
        apply_status(out, run_dir)
        return
    with connected_fleet(s) as fleet:
        run = gather_run(fleet, gather_wanted(out, s, fleet))
    out.add(**run.as_json())
    out.text("\n".join(run.lines()))
    out.cells(RANK_COLUMNS, rank_rows(run))
    if run.ended:
        out.text(str(run.ended))
    out.exit = exit_code(run) or out.exit


@command("run", *FLEET, "shared", "follow", "rank", "host", "tail", helps=FOR_RUNS)
def logs(out: Any, s: Any) -> None:
    """Show what a run's ranks print: on all hosts, on one host, or one rank alone.

    Example: invoke logs last --rank 3 -f
    """
    from provision.commands.runs.find import gather_wanted
    from provision.commands.runs.logs import gather_logs
    from provision.commands.slurm.find import read_slurm_run

    if run_dir := read_slurm_run(s):
        from provision.commands.slurm.logs import apply_logs

        apply_logs(out, s, run_dir)
        return
    with connected_fleet(s) as fleet:
        gather_logs(out, s, fleet, gather_wanted(out, s, fleet))


@command("run", *FLEET, "runs", "shared", helps=FOR_RUNS)
def attach(out: Any, s: Any) -> None:
    """Follow a run to its end, as train does, and collect it; Ctrl-C leaves it running.

    Example: invoke attach last
    """
    from provision.commands.runs.attach import apply_attach
    from provision.commands.runs.find import gather_wanted
    from provision.commands.slurm.find import read_slurm_run

    if run_dir := read_slurm_run(s):
        from provision.commands.slurm import attach as of_a_job

        of_a_job.apply_attach(out, s, run_dir)
        return
    with connected_fleet(s) as fleet:
        apply_attach(out, s, fleet, gather_wanted(out, s, fleet))


@command("run", *FLEET, "shared", "dry_run", helps=FOR_RUNS)
def stop(out: Any, s: Any) -> None:
    """Stop a run on all its hosts: SIGTERM, time to save, then SIGKILL; wait until it is gone.

    Example: invoke stop last
    """
    from provision.commands.runs.find import gather_wanted
    from provision.commands.runs.stop import apply_stopped
    from provision.commands.slurm.find import read_slurm_run
    from provision.commands.slurm.stop import apply_stop

    if run_dir := read_slurm_run(s):
        apply_stop(out, run_dir)
        return
    with connected_fleet(s) as fleet:
        run = apply_stopped(out, fleet, gather_wanted(out, s, fleet))
    out.add(**run.as_json())
    out.text("\n".join(run.lines()))
    out.exit = out.exit or (errors.FINDINGS if run.running else errors.OK)


@command("run", *FLEET, "runs", "checkpoints", "shared", helps=FOR_RUNS)
def collect(out: Any, s: Any) -> None:
    """Copy a run's adapter or weights, logs and metrics here, each file checked by its hash.

    Example: invoke collect last --checkpoints
    """
    from provision.commands.runs.collect import apply_collected
    from provision.commands.runs.find import gather_wanted
    from provision.commands.slurm.find import read_slurm_run

    if run_dir := read_slurm_run(s):
        from provision.commands.slurm import collect as of_a_job

        of_a_job.apply_collected(out, s, run_dir)
        return
    with connected_fleet(s) as fleet:
        apply_collected(out, s, fleet, gather_wanted(out, s, fleet))


@command(
    "run",
    *FLEET,
    *WHEEL,
    *LOCK,
    "master_addr",
    "master_port",
    "runs",
    "env",
    "detach",
    "retries",
    "retry_within",
    *LIMITS,
    "shared",
    "dry_run",
    helps=FOR_RESUME,
)
def resume(out: Any, s: Any) -> None:
    """Restart an ended run, unchanged, from its newest checkpoint that is whole on all hosts.

    Example: invoke resume last
    """
    from provision.commands.slurm.find import read_slurm_run

    if run_dir := read_slurm_run(s):
        from provision.commands.slurm.resume import apply_resumed

        apply_resumed(out, s, run_dir)
    else:
        from provision.commands.train.resume import apply_resume

        apply_resume(out, s)


@command("run", "runs", "shared", helps=FOR_RUNS)
def report(out: Any, s: Any) -> None:
    """Write a collected run as one HTML page: curves, ranks, plan, hosts, the first failure.

    Example: invoke report last
    """
    from provision.commands.slurm.find import read_run_of_job
    from provision.launch.nodes import RUNS
    from provision.launch.record import read_run_folder
    from provision.launch.report import apply_report

    wanted = read_run_of_job(s) or s.run or "last"
    path = apply_report(read_run_folder(s.runs, wanted, Path.home() / RUNS))
    out.add(report=str(path))
    out.text(str(path))


#: What tasks.py adds to its own.
TASKS = (runs, status, logs, attach, stop, collect, resume, report)
