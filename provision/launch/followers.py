"""What hosts tell of their nodes as it happens; who is silent is asked anew, or given up."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.launch.progress import SILENCE, Watch
from provision.script import script_argv
from provision.session import Remote

#: How often in a row a host is connected to anew before it counts as lost, and the pause before.
_RECONNECTS = 3
_PAUSE = 2.0
#: Seconds between two looks at who is silent.
LOOK = 1.0

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


class Followers:
    """One thread a host that runs follow.py there and queues its events."""

    def __init__(
        self, fleet: Fleet, run_dirs: Mapping[str, str], events: Events, view: View
    ) -> None:
        self._fleet, self._run_dirs, self._events, self.view = fleet, run_dirs, events, view
        self._tries: dict[str, int] = dict.fromkeys(run_dirs, 0)
        #: When each host's present connection was begun: it too is given time to speak.
        self.begun: dict[str, float] = {}
        self._current: dict[str, int] = dict.fromkeys(run_dirs, 0)
        self._looked = time.monotonic()

    def begin(self, watch: Watch) -> None:
        """Follow the hosts that are not followed yet."""
        for host in self._run_dirs:
            if host not in self.begun:
                self.read_on(host, watch)

    def read_on(self, host: str, watch: Watch) -> None:
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

    def look(self, watch: Watch) -> list[str]:
        """Give up hosts that are gone, connect anew to those that are silent; what is to be said.

        Silence means something only where nothing that was said waits to be read, and where this
        process was not stopped itself.
        """
        now = time.monotonic()
        since = now - self._looked
        if since < LOOK or not self._events.empty():
            return []
        self._looked = now
        if since > SILENCE / 4:
            return []
        gone = watch.gone(now)
        for host, why in gone.items():
            self._lose(host, why)
        silent = [host for host in watch.silent(now) if host not in gone]
        late = [host for host in silent if now - self.begun[host] > SILENCE]
        return [line for host in late for line in self.restart(host, watch)]

    def _lose(self, host: str, why: str) -> None:
        """Read no more from a host."""
        self._current[host] += 1
        self._fleet.disconnect(host)
        self._events.put((host, {"lost": why, "link": True}))

    def heard(self, host: str) -> None:
        """An event arrived: only tries in vain, one after another, count against a host."""
        self._tries[host] = 0

    def restart(self, host: str, watch: Watch, reason: str = "silent") -> tuple[str, ...]:
        """Connect anew and go on reading; what is to be said of it.

        After a few tries in vain the host is lost, unless another one still tells of the run: the
        hosts watch one another, so this host is there as well, and only its link to here is cut.
        """
        self._tries[host] += 1
        tries = self._tries[host]
        if tries > _RECONNECTS and not any(self._tries[h] == 0 for h in watch.running):
            self._lose(host, f"no connection any more ({reason}); if it lives, its ranks go on")
            return ()
        self._current[host] += 1
        self._fleet.disconnect(host)
        self.read_on(host, watch)
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
