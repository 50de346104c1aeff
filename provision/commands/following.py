"""The steps of the commands about runs that were started: find it, follow it, stop it, fetch it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from provision.errors import FINDINGS, INTERRUPTED, ConfigError, ProvisionError
from provision.fleet import SAY_EVERY, Fleet, error_report
from provision.launch.apply import View, apply_results, apply_watch, parse_event
from provision.launch.collect import apply_collect
from provision.launch.failure import parse_outcome
from provision.launch.runs import KnownRun, choose_run, gather_run, gather_runs
from provision.launch.spec import GRACE
from provision.script import script_argv
from provision.session import Remote
from provision.settings import Settings
from provision.show import Answer
from provision.steps import Phase, Plan, Run, Step

#: Lines of a run's log that somebody who attaches sees of what was before.
ATTACH_TAIL = 20
#: Seconds that a stop is waited for beside the run's grace time: what SIGKILL takes.
STOP_SECONDS = 45.0


def gather_wanted(out: Answer, s: Settings, fleet: Fleet) -> KnownRun:
    """The run that the command line names. Hosts that can't be asked are said, and left out.

    The command ends here where no other host knows of it: one of them may.
    """
    runs, errors = gather_runs(fleet)
    try:
        found = choose_run(runs, str(s.run))
    except ConfigError:
        out.require(error_report(errors))
        raise
    out.report(error_report(errors))
    return found


def shown_hosts(run: KnownRun, s: Settings) -> dict[str, str]:
    """The run folders whose lines are wanted; ConfigError for a host or rank that it has not."""
    dirs = run.run_dirs
    if s.host is not None:
        if s.host not in dirs:
            raise ConfigError(
                "--host", found=s.host, expected=", ".join(dirs), remedy="name one of the run's"
            )
        dirs = {s.host: dirs[s.host]}
    if s.rank is None:
        return dirs
    for host, node in run.nodes.items():
        if 0 <= s.rank - node["first_rank"] < node["nproc_per_node"] and host in dirs:
            return {host: dirs[host]}
    raise ConfigError(
        "--rank",
        found=s.rank,
        expected=f"a rank of {', '.join(dirs)}",
        remedy="see `invoke status` for the run's ranks",
    )


def log_lines(rank: int | None) -> Callable[[Mapping[str, Any]], bool]:
    """Tells whether an event is a line to show; each rank's are marked by torchrun."""

    def shows(event: Mapping[str, Any]) -> bool:
        if "metric" in event:
            return False
        marked = rank is None or "log" not in event
        return marked or str(event["log"]).startswith(f"[rank {rank}]")

    return shows


def require_an_end(out: Answer, s: Settings) -> None:
    """Raises ConfigError for lines without end in the one JSON object."""
    if s.follow and out.json:
        raise ConfigError(
            "--follow with --json",
            found="both",
            expected="one of them",
            remedy="one JSON object has an end: leave one out",
        )


def gather_logs(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Show the lines that are wanted: what is there, or with --follow as they come."""
    dirs, shows = shown_hosts(run, s), log_lines(s.rank)
    require_an_end(out, s)
    if s.follow:
        view = View(tail=s.tail, stops=False, detaches=True, shows=shows)
        _, left = apply_watch(fleet, dirs, out.text, view)
        out.exit = INTERRUPTED if left else out.exit
        return
    options = ["--once"] if s.tail is None or s.rank is not None else ["--once", f"--tail={s.tail}"]

    def call(remote: Remote) -> list[str]:
        events: list[Mapping[str, Any] | None] = []
        argv = script_argv("follow", [dirs[remote.label], *options])
        remote.run(argv, lambda line: events.append(parse_event(line)))
        return [str(event["log"]) for event in events if event and "log" in event and shows(event)]

    found = fleet.fan_out(call, tuple(dirs))
    out.report(error_report(found))
    lines = {h: some for h, some in found.items() if not isinstance(some, ProvisionError)}
    if s.tail is not None:
        lines = {host: some[len(some) - min(s.tail, len(some)) :] for host, some in lines.items()}
    out.add(run=run.run, lines=lines)
    for host, some in lines.items():
        for line in some:
            out.text(f"[{host}] {line}")


def apply_attach(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Follow the run until it ends, then collect it; after Ctrl-C it runs on."""
    view = View(tail=ATTACH_TAIL, detaches=True)
    if run.running:
        out.say(f"attached to {run.run}; Ctrl-C leaves it running")
    watch, left = apply_watch(fleet, run.run_dirs, out.say, view)
    if left:
        out.add(run=run.run, state=run.state)
        out.say(f"detached; it runs on: invoke attach {run.run}, invoke stop {run.run}")
        out.exit = INTERRUPTED
        return
    outcome = parse_outcome(
        run.run,
        watch.exits,
        lost=watch.lost,
        clock_offsets=run.clock_offsets,
        stopping=gather_run(fleet, run).stop_came_first,
    )
    out.outcome(apply_results(fleet, outcome, run.run_dirs, run.outputs, s.runs, out.say))


def apply_collected(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Bring what is missing here of the run's files."""
    if run.running:
        out.say(f"{run.run} still runs: what is there now comes, and may be half of it")
    folder = s.runs / run.run
    done = apply_collect(
        fleet, run.run_dirs, run.outputs, folder, out.say, checkpoints=s.checkpoints
    )
    out.add(run=run.run, **done.as_json())
    out.text(f"{done.folder}: {done.came} files came, {done.kept} were here")
    if done.missing or run.unheard:
        out.say(f"not from every host: {run.unheard + len(done.missing)} of {run.nnodes} missing")
        out.exit = out.exit or FINDINGS


def plan_stop(run: KnownRun) -> Plan:
    """Tell the supervisor on each host where the run goes on."""
    steps = tuple(
        Step(
            host=host,
            do=Run(
                argv=script_argv("supervise", ["stop", run.run_dirs[host]]),
                title=f"supervise stop {run.run_dirs[host]}",
            ),
            why="its ranks get SIGTERM, time to save, then SIGKILL",
        )
        for host in run.running
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
        if run.running and time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            out.say(f"still stopping: {', '.join(run.running)}")
    return run
