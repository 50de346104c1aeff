"""Start a run, follow it to its end, and stop it on every host when one fails or on Ctrl-C.

The run itself lives on the hosts, under a supervisor each; what is here only watches. So a
controller that dies leaves a run that goes on, and one that is stopped leaves none.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.launch.collect import apply_collect
from provision.launch.failure import RunOutcome, parse_outcome
from provision.launch.plan import LaunchPlan
from provision.launch.progress import SILENCE, Turn, Watch, advance, begin_watch, stop_all
from provision.launch.standby import Standby
from provision.script import script_argv
from provision.session import Remote, Say

#: How often in a row a host is connected to anew before it counts as lost, and the pause before.
_RECONNECTS = 3
_PAUSE = 2.0

Events = queue.Queue[tuple[str, dict[str, Any]]]


def _everything(_: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class View:
    """How a run is followed.

    ``tail``: begin with the last so many lines of each file (None: from the start). ``stops``:
    when one host fails, the others are told to stop. ``detaches``: Ctrl-C ends the following, not
    the run. ``shows``: which of follow's events count.
    """

    tail: int | None = None
    stops: bool = True
    detaches: bool = False
    shows: Callable[[Mapping[str, Any]], bool] = _everything


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run's outcome and what was brought here of it.

    ``collected`` is the run's local folder, ``adapter`` the output in it. ``optimizer`` is the
    class that stepped, by the trainer's own word; None if training never began.
    """

    outcome: RunOutcome
    interrupted: bool
    collected: Path
    adapter: Path
    optimizer: str | None

    def __str__(self) -> str:
        return f"{self.outcome}\n  results: {self.collected}"

    def as_json(self) -> dict[str, object]:
        """The keys that a run adds to ``--json``."""
        return {
            **self.outcome.as_json(),
            "collected": str(self.collected),
            "adapter": str(self.adapter),
            "optimizer": self.optimizer,
        }


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
        fleet, outcome, launch.run_dirs, outputs, runs, say, interrupted=interrupted
    )


def apply_start(fleet: Fleet, launch: LaunchPlan, standby: Standby, say: Say) -> None:
    """Start the run everywhere, or nowhere: the first host's error after it was stopped again."""
    try:
        fleet.apply(launch.plan, say, standby.apply)
    except BaseException:
        say("the run could not be started everywhere: stopping it where it was")
        apply_stop(fleet, launch.run_dirs, tuple(launch.run_dirs))
        raise


def apply_results(
    fleet: Fleet,
    outcome: RunOutcome,
    run_dirs: Mapping[str, str],
    outputs: Mapping[str, str],
    runs: Path,
    say: Say,
    *,
    interrupted: bool = False,
) -> RunResult:
    """Collect a run that has ended below ``runs``, hosts in node_rank order."""
    folder = runs / outcome.run
    apply_collect(fleet, run_dirs, outputs, folder, say)
    return RunResult(
        outcome=outcome,
        interrupted=interrupted,
        collected=folder,
        adapter=folder / "output",
        optimizer=read_optimizer(folder / "hosts" / next(iter(run_dirs)) / "metrics.jsonl"),
    )


def read_optimizer(metrics: Path) -> str | None:
    """The optimizer class in the ``begin`` line of a run's metrics; None without one."""
    if not metrics.is_file():
        return None
    for line in metrics.read_text(encoding="utf-8").splitlines():
        metric = json.loads(line)
        if metric.get("event") == "begin":
            return str(metric["optimizer"])
    return None


def apply_stop(fleet: Fleet, run_dirs: Mapping[str, str], hosts: Sequence[str]) -> None:
    """Ask the supervisors of these hosts to stop the run; those that can't be reached are left."""
    if hosts:
        fleet.ask("supervise", {host: ["stop", run_dirs[host]] for host in hosts})


def apply_watch(
    fleet: Fleet, run_dirs: Mapping[str, str], say: Say, view: View | None = None
) -> tuple[Watch, bool]:
    """Follow every host until all have ended or are lost, or Ctrl-C ends that.

    True after Ctrl-C: it has stopped the run, or left it to itself if ``view`` only looks on.
    """
    view, events = view or View(), Events()
    turn = Turn(watch=begin_watch(tuple(run_dirs), time.monotonic()))
    follow = _Followers(fleet, run_dirs, events, view)
    interrupted = False
    while not turn.done:
        try:
            follow.begin(turn.watch)  # here, as Ctrl-C has to stop a run from its first moment
            turn = _next(turn.watch, events, follow)
        except KeyboardInterrupt:
            if interrupted:
                raise
            if view.detaches:
                return turn.watch, True
            interrupted = True
            turn = stop_all(turn.watch, "Ctrl-C (again: stop watching; the hosts go on stopping)")
        for line in turn.lines:
            say(line)
        if turn.stop and view.stops:
            apply_stop(fleet, run_dirs, turn.stop)
    return turn.watch, interrupted


def _next(watch: Watch, events: Events, follow: _Followers) -> Turn:
    """What follows from the next event, or from silence."""
    try:
        host, event = events.get(timeout=1)
    except queue.Empty:
        now = time.monotonic()
        late = [h for h in watch.silent(now) if now - follow.begun[h] > SILENCE]
        lines = [line for host in late for line in follow.restart(host, watch)]
        return Turn(watch=watch, lines=tuple(lines))
    if "broken" in event:
        return Turn(watch=watch, lines=follow.restart(host, watch, event["broken"]))
    follow.heard(host)
    if not follow.view.shows(event):
        return Turn(watch=watch)
    return advance(watch, host, event, time.monotonic())


class _Followers:
    """One thread a host that runs follow.py there and queues its events."""

    def __init__(
        self, fleet: Fleet, run_dirs: Mapping[str, str], events: Events, view: View
    ) -> None:
        self._fleet, self._run_dirs, self._events, self.view = fleet, run_dirs, events, view
        self._tries: dict[str, int] = dict.fromkeys(run_dirs, 0)
        #: When each host's present connection was begun: it too is given time to speak.
        self.begun: dict[str, float] = {}
        self._current: dict[str, int] = dict.fromkeys(run_dirs, 0)

    def begin(self, watch: Watch) -> None:
        """Follow the hosts that are not followed yet."""
        for host in self._run_dirs:
            if host not in self.begun:
                self.start(host, watch)

    def start(self, host: str, watch: Watch) -> None:
        """Follow a host from where it was read to."""
        offsets = json.dumps(dict(watch.hosts[host].offsets))
        args = [self._run_dirs[host], "--from-offsets", offsets]
        if self.view.tail is not None:
            args += ["--tail", str(self.view.tail)]
        self.begun[host] = time.monotonic()
        number, pause = self._current[host], _PAUSE * min(self._tries[host], _RECONNECTS)

        def put(event: dict[str, Any] | None) -> None:
            # What an abandoned connection still delivers was, or will be, read by the next one.
            if event is not None and self._current[host] == number:
                self._events.put((host, event))

        def call(remote: Remote) -> None:
            code, _, err = remote.run(
                script_argv("follow", args), lambda line: put(parse_event(line))
            )
            if code not in (0, 1):
                put({"broken": err.strip().splitlines()[-1] if err.strip() else f"exit {code}"})

        def run() -> None:
            time.sleep(pause)  # a host that has just refused needs a moment; the first try does not
            answer = self._fleet.fan_out(call, (host,))[host]
            if isinstance(answer, ProvisionError):
                put({"broken": str(answer)})

        threading.Thread(target=run, name=f"follow {host}", daemon=True).start()

    def heard(self, host: str) -> None:
        """An event arrived: only tries in vain, one after another, count against a host."""
        self._tries[host] = 0

    def restart(self, host: str, watch: Watch, reason: str = "silent") -> tuple[str, ...]:
        """Connect anew and go on reading; what is to be said of it.

        After a few tries in vain the host is lost, unless another one still tells of the run: the
        hosts watch one another, so this host is there as well, and only its link to here is cut.
        """
        self._tries[host] += 1
        self._current[host] += 1
        self._fleet.disconnect(host)
        tries = self._tries[host]
        if tries > _RECONNECTS and not any(self._tries[h] == 0 for h in watch.running):
            lost = {
                "lost": f"no connection any more ({reason}); if it lives, its ranks go on",
                "link": True,
            }
            self._events.put((host, lost))
            return ()
        self.start(host, watch)
        if tries != _RECONNECTS:
            return ()
        return (f"[{host}] no connection ({reason}): trying again and again, its ranks go on",)


def parse_event(line: str) -> dict[str, Any] | None:
    """An event of follow.py; None for what a login shell prints around it."""
    if not line.startswith("{"):
        return None
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
