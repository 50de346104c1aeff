"""The commands about runs that were started: from any controller that reaches their hosts.

What one of them works with is imported where it begins: no other command waits for it.
"""

from __future__ import annotations

import time
from typing import Any

from provision import errors
from provision.commands.flags import FLEET, LIMITS, LOCK, WHEEL, command
from provision.commands.reach import connected_fleet


@command(*FLEET)
def runs(out: Any, s: Any) -> None:
    """List the runs on the hosts, whoever started them from wherever: state, step, loss."""
    from provision.fleet import error_report
    from provision.launch.runs import COLUMNS, gather_runs

    with connected_fleet(s) as fleet:
        found, failed = gather_runs(fleet)
    now = time.time()
    out.add(runs=[run.as_json() for run in found])
    out.cells(COLUMNS, [run.row(now) for run in found])
    out.report(error_report(failed))


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


@command("run", *FLEET, "runs")
def attach(out: Any, s: Any) -> None:
    """Follow a run to its end, as train does, and collect it; Ctrl-C leaves it running."""
    from provision.commands.following import apply_attach, gather_wanted

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


@command("run", *FLEET, "runs", "checkpoints")
def collect(out: Any, s: Any) -> None:
    """Bring a run's adapter or weights, logs and metrics here, each file held to its hash."""
    from provision.commands.following import apply_collected, gather_wanted

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
    "dry_run",
)
def resume(out: Any, s: Any) -> None:
    """Start an ended run again, as it was, from its newest checkpoint whole on all hosts."""
    from provision.commands.training import apply_resume

    apply_resume(out, s)


@command("run", "runs")
def report(out: Any, s: Any) -> None:
    """Write a collected run as one HTML file: curves, ranks, plan, hosts, the first failure."""
    from provision.launch.report import apply_report, read_run_folder

    path = apply_report(read_run_folder(s.runs, s.run or "last"))
    out.add(report=str(path))
    out.text(str(path))


#: What tasks.py adds to its own.
TASKS = (runs, status, logs, attach, stop, collect, resume, report)
