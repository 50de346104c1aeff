"""The commands about runs that were started: from any controller that reaches their hosts.

What one of them works with is imported where it begins: no other command waits for it.
"""

from __future__ import annotations

import time
from typing import Any

from provision import errors
from provision.commands.flags import FLEET, LIMITS, LOCK, WHEEL, command
from provision.commands.reach import connected_fleet


@command(*FLEET, "shared")
def runs(out: Any, s: Any) -> None:
    """List the runs on the hosts, whoever started them, and those of Slurm jobs: step, loss."""
    from provision.commands.slurm_runs import read_listed, row
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


@command("run", *FLEET, "shared")
def status(out: Any, s: Any) -> None:
    """Say how a run does: each rank, step, loss, rate, time left; or how it ended, and why."""
    from provision.commands.following import gather_wanted
    from provision.commands.slurm_runs import shown
    from provision.launch.runs import gather_run
    from provision.launch.status import RANK_COLUMNS, exit_code, rank_rows

    if shown(out, s, "status"):
        return
    with connected_fleet(s) as fleet:
        run = gather_run(fleet, gather_wanted(out, s, fleet))
    out.add(**run.as_json())
    out.text("\n".join(run.lines()))
    out.cells(RANK_COLUMNS, rank_rows(run))
    if run.ended:
        out.text(str(run.ended))
    out.exit = exit_code(run) or out.exit


@command("run", *FLEET, "shared", "follow", "rank", "host", "tail")
def logs(out: Any, s: Any) -> None:
    """Show what the ranks of a run print: all hosts' lines, one host's, or one rank's."""
    from provision.commands.following import gather_logs, gather_wanted
    from provision.commands.slurm_runs import shown

    if shown(out, s, "logs"):
        return
    with connected_fleet(s) as fleet:
        gather_logs(out, s, fleet, gather_wanted(out, s, fleet))


@command("run", *FLEET, "runs", "shared")
def attach(out: Any, s: Any) -> None:
    """Follow a run to its end, as train does, and collect it; Ctrl-C leaves it running."""
    from provision.commands.following import apply_attach, gather_wanted
    from provision.commands.slurm_runs import shown

    if shown(out, s, "attach"):
        return
    with connected_fleet(s) as fleet:
        apply_attach(out, s, fleet, gather_wanted(out, s, fleet))


@command("run", *FLEET, "shared", "dry_run")
def stop(out: Any, s: Any) -> None:
    """Stop a run on all its hosts: SIGTERM, time to save, then SIGKILL; wait until it is gone."""
    from provision.commands.following import apply_stopped, gather_wanted
    from provision.commands.slurm_runs import shown

    if shown(out, s, "stop"):
        return
    with connected_fleet(s) as fleet:
        run = apply_stopped(out, fleet, gather_wanted(out, s, fleet))
    out.add(**run.as_json())
    out.text("\n".join(run.lines()))
    out.exit = out.exit or (errors.FINDINGS if run.running else errors.OK)


@command("run", *FLEET, "runs", "checkpoints", "shared")
def collect(out: Any, s: Any) -> None:
    """Bring a run's adapter or weights, logs and metrics here, each file held to its hash."""
    from provision.commands.following import apply_collected, gather_wanted
    from provision.commands.slurm_runs import shown

    if shown(out, s, "collect"):
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
    "detach",
    "retries",
    *LIMITS,
    "shared",
    "dry_run",
)
def resume(out: Any, s: Any) -> None:
    """Start an ended run again, as it was, from its newest checkpoint whole on all hosts."""
    from provision.commands.slurm_runs import shown
    from provision.commands.training import apply_resume

    if not shown(out, s, "resume"):
        apply_resume(out, s)


@command("run", "runs", "shared")
def report(out: Any, s: Any) -> None:
    """Write a collected run as one HTML file: curves, ranks, plan, hosts, the first failure."""
    from provision.commands.slurm_runs import read_run_of_job
    from provision.launch.report import apply_report, read_run_folder

    wanted = read_run_of_job(s) or s.run or "last"
    path = apply_report(read_run_folder(s.runs, wanted))
    out.add(report=str(path))
    out.text(str(path))


#: What tasks.py adds to its own.
TASKS = (runs, status, logs, attach, stop, collect, resume, report)
