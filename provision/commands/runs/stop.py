"""The steps of stop: tell the hosts where a run goes on, and wait until it is over."""

from __future__ import annotations

import time

from provision.fleet import SAY_EVERY, Fleet
from provision.launch.runs import KnownRun, gather_run
from provision.launch.spec import GRACE
from provision.launch.states import State
from provision.script import script_argv
from provision.show import Answer
from provision.steps import Phase, Plan, Run, Step

#: Seconds that a stop is waited for beside the run's grace time: what SIGKILL takes.
STOP_SECONDS = 45.0


def plan_stop(run: KnownRun) -> Plan:
    """Tell the supervisor on each host where the run goes on; of a run that is stopping already,
    to wait for no checkpoint. Where the supervisor was killed, ranks of it may go on.
    """
    how = "kill" if run.stopping else "stop"
    lost = [host for host, node in run.nodes.items() if node["state"] == State.LOST]
    steps = tuple(
        Step(
            host=host,
            do=Run(
                argv=script_argv("supervise", [how, run.run_dirs[host]]),
                title=f"supervise {how} {run.run_dirs[host]}",
            ),
            why="its ranks save a checkpoint and end; or get SIGTERM, time to save, then SIGKILL"
            if how == "stop"
            else "it was asked to stop before: its ranks are ended now",
        )
        for host in (*run.running, *lost)
    )
    phases = (Phase(name="stop", steps=steps),) if steps else ()
    return Plan(title=f"stop {run.run}", phases=phases)


def stop_seconds(run: KnownRun) -> float:
    """How long a stop of this run may take."""
    given = [node.get("limits", {}).get("grace", GRACE) for node in run.nodes.values()]
    return STOP_SECONDS + max(float(each) for each in given)


def apply_stopped(out: Answer, fleet: Fleet, run: KnownRun) -> KnownRun:
    """Stop the run where it goes on, and wait; the run as it is then.

    Raises a host's error if it can't be told, after all others were.
    """
    plan = plan_stop(run)
    out.plan(plan)
    fleet.apply(plan, out.say)
    began = told = time.monotonic()
    while run.running and time.monotonic() - began < stop_seconds(run):
        time.sleep(0.5)
        run = gather_run(fleet, run)
        if run.saving:  # the hosts end that when it no longer moves
            began = time.monotonic()
        if run.running and time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            doing = "saving a checkpoint" if run.saving else "stopping"
            out.say(f"still {doing}: {', '.join(run.running)} (again: ends the ranks now)")
    return run
