"""The steps of attach: follow a run to its end, as train does, and collect it."""

from __future__ import annotations

from provision.commands.train.report import apply_attached
from provision.errors import INTERRUPTED
from provision.fleet import Fleet
from provision.launch.apply import apply_watch
from provision.launch.failure import parse_outcome
from provision.launch.followers import View
from provision.launch.results import apply_results
from provision.launch.runs import KnownRun, gather_run
from provision.settings import Settings
from provision.show import Answer

#: Lines of a run's log that somebody who attaches sees of what was before.
ATTACH_TAIL = 20


def apply_attach(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Follow the run until it ends, then collect it; after Ctrl-C it runs on."""
    view = View(tail=ATTACH_TAIL, detaches=True)
    if run.running:
        out.say(f"attached to {run.run}; Ctrl-C leaves it running")
    watch, left = apply_watch(fleet, run.run_dirs, out.say, view)
    if left:
        out.add(run=run.run, state=run.state)
        out.say(f"detached; it keeps running: invoke attach {run.run}, invoke stop {run.run}")
        out.exit = INTERRUPTED
        return
    stopping = gather_run(fleet, run, watch.unreached).stop_came_first
    outcome = parse_outcome(
        run.run,
        watch.exits,
        lost=watch.lost,
        clock_offsets=run.clock_offsets,
        stopping=stopping,
    )
    result = apply_results(
        fleet, outcome, run.run_dirs, run.outputs, s.runs, out.say, unreached=watch.unreached
    )
    out.outcome(result)
    apply_attached(out, fleet, run, result, stopping=stopping)
