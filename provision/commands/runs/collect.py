"""The steps of collect: bring a run's files here."""

from __future__ import annotations

from provision.errors import FINDINGS
from provision.fleet import Fleet
from provision.launch.collect import apply_collect
from provision.launch.runs import KnownRun
from provision.settings import Settings
from provision.show import Answer


def apply_collected(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Bring what is missing here of the run's files."""
    if run.running:
        out.say(f"{run.run} is still running: its files are copied as they are at this moment")
    folder = s.runs / run.run
    done = apply_collect(
        fleet, run.run_dirs, run.outputs, folder, out.say, checkpoints=s.checkpoints
    )
    out.add(run=run.run, **done.as_json())
    out.text(f"{done.folder}: {done.came} files copied, {done.kept} already here")
    if done.missing or run.unheard:
        out.say(f"not from every host: {run.unheard + len(done.missing)} of {run.nnodes} missing")
        out.exit = out.exit or FINDINGS
