"""Start a run, follow it to its end, and stop it on every host when one fails or on Ctrl-C.

The run itself lives on the hosts, under a supervisor each; what is here only watches. So a
controller that dies leaves a run that goes on, and one that is stopped leaves none.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.fleet import Fleet
from provision.launch.failure import parse_outcome
from provision.launch.followers import LOOK, Events, Followers, View
from provision.launch.plan import LaunchPlan
from provision.launch.progress import Turn, Watch, advance, begin_watch, stop_all
from provision.launch.results import RunResult, apply_results
from provision.launch.standby import Standby
from provision.session import Say

_FIRST = "Ctrl-C: ranks may save, and end (again: end them now)"
_AGAIN = "ending the ranks now (again: stop watching)"
#: Seconds that the last Ctrl-C waits until hosts were asked to stop.
_PATIENCE = 5.0


def apply_launch(
    fleet: Fleet,
    launch: LaunchPlan,
    standby: Standby,
    runs: Path,
    say: Say,
    clock_offsets: Mapping[str, float],
) -> RunResult:
    """Carry out the plan, watch until every node has ended, and collect below ``runs``.

    Raises the error of a host where the run could not be started, after it was stopped on all
    others.
    """
    apply_start(fleet, launch, standby, say)
    watch, interrupted = apply_watch(fleet, launch.run_dirs, say)
    outcome = parse_outcome(
        launch.run,
        watch.exits,
        lost=watch.lost,
        clock_offsets=clock_offsets,
        stopping=interrupted,
    )
    outputs = {node.host: node.output for node in launch.nodes}
    return apply_results(
        fleet, outcome, launch.run_dirs, outputs, runs, say,
        interrupted=interrupted, unreached=watch.unreached,
    )  # fmt: skip


def apply_start(fleet: Fleet, launch: LaunchPlan, standby: Standby, say: Say) -> None:
    """Start the run everywhere, or nowhere: the first host's error after it was stopped again."""
    try:
        fleet.apply(launch.plan, say, standby.apply)
    except BaseException:
        say("the run could not be started everywhere: stopping it where it was")
        try:
            apply_stop(fleet, launch.run_dirs, tuple(launch.run_dirs))
        except KeyboardInterrupt:
            say(f"it may still run where it was not told to stop: invoke stop {launch.run}")
        raise


def apply_stop(
    fleet: Fleet, run_dirs: Mapping[str, str], hosts: Sequence[str], how: str = "stop"
) -> None:
    """Ask the supervisors of these hosts to stop the run; those that can't be reached are left.

    ``how``: "kill" waits for no checkpoint.
    """
    if hosts:
        fleet.ask("supervise", {host: [how, run_dirs[host]] for host in hosts})


def apply_watch(
    fleet: Fleet, run_dirs: Mapping[str, str], say: Say, view: View | None = None
) -> tuple[Watch, bool]:
    """Follow every host until all have ended or are lost, or Ctrl-C ends that.

    True after Ctrl-C: it has stopped the run, or left it to itself if ``view`` only looks on.
    """
    view, events = view or View(), Events()
    turn = Turn(watch=begin_watch(tuple(run_dirs), time.monotonic()))
    follow, stops = Followers(fleet, run_dirs, events, view), _Stops(fleet, run_dirs)
    presses = 0
    while not turn.done:
        try:
            follow.begin(turn.watch)  # here, as Ctrl-C has to stop a run from its first moment
            turn = _next(turn.watch, events, follow)
            for line in (*turn.lines, *follow.look(turn.watch)):
                say(line)
            if turn.stop and view.stops:
                stops.begin(turn.stop)
        except KeyboardInterrupt:
            if view.detaches:
                return turn.watch, True
            turn, presses = _apply_interrupt(stops, turn.watch, presses + 1, say)
    return turn.watch, presses > 0


def _apply_interrupt(stops: _Stops, watch: Watch, presses: int, say: Say) -> tuple[Turn, int]:
    """What Ctrl-C does, by how often it was pressed; the third time it is raised."""
    if presses > 2:
        stops.wait(_PATIENCE)
        raise KeyboardInterrupt
    turn = stop_all(watch, "")
    names = ", ".join(watch.running)
    line, how = _AGAIN, "kill"
    if presses == 1:
        line, how = f"stopping {names}: {_FIRST}", "stop"
    try:
        stops.begin(watch.running, how)  # all: who was just to be told may not have been
        say(line)
    except KeyboardInterrupt:
        return _apply_interrupt(stops, turn.watch, presses + 1, say)
    return Turn(watch=turn.watch), presses


class _Stops:
    """Stops that are being asked for, each in a thread of its own.

    A host without power keeps who asks it waiting for half a minute: not whoever watches the
    others, and not Ctrl-C.
    """

    def __init__(self, fleet: Fleet, run_dirs: Mapping[str, str]) -> None:
        self._fleet, self._run_dirs = fleet, run_dirs
        self._threads: list[threading.Thread] = []

    def begin(self, hosts: Sequence[str], how: str = "stop") -> None:
        """Ask the supervisors of these hosts."""
        args = (self._fleet, self._run_dirs, hosts, how)
        thread = threading.Thread(target=apply_stop, args=args, name=how, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for at most so long until all were asked."""
        until = time.monotonic() + seconds
        for thread in (thread for thread in self._threads if thread.ident):  # which has begun
            thread.join(max(0.0, until - time.monotonic()))


def _next(watch: Watch, events: Events, follow: Followers) -> Turn:
    """What follows from the next event; nothing where none comes within a second."""
    try:
        host, event = events.get(timeout=LOOK)
    except queue.Empty:
        return Turn(watch=watch)
    if "broken" in event:
        return Turn(watch=watch, lines=follow.restart(host, watch, event["broken"]))
    follow.heard(host)
    if not follow.view.shows(event):
        return Turn(watch=watch)
    return advance(watch, host, event, time.monotonic())
