"""``invoke report``: a run's page, from what was collected of it."""

from __future__ import annotations

from provision.commands.flags import command
from provision.settings import Settings
from provision.show import Answer


@command("run", "runs")
def report(out: Answer, s: Settings) -> None:
    """Write a collected run as one HTML file: curves, ranks, plan, hosts, the first failure."""
    from provision.launch.report import apply_report, read_run_folder

    path = apply_report(read_run_folder(s.runs, s.run or "last"))
    out.add(report=str(path))
    out.text(str(path))
