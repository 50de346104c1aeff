"""One node of a run, from torchrun's start to exit.json: why it is to end, and how it is ended.

The first failure on any node, a node that is lost, or a request to stop on one of them stops all
(heartbeat.py). How processes are ended: processes.py. How a node ended: ending.py.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import Any, Callable

from provision.onhost.ahead import Ahead
from provision.onhost.asked import NOW, listen
from provision.onhost.circle import LOST_AFTER, Circle
from provision.onhost.disk import keep_room, read_full
from provision.onhost.ending import node_exit, own_failure, read_oom_kills
from provision.onhost.folder import write_json
from provision.onhost.heartbeat import Heartbeat, HeartbeatError
from provision.onhost.kernel import read_evidence
from provision.onhost.pausing import Pausing
from provision.onhost.peer import make_cause
from provision.onhost.processes import (
    PR_SET_CHILD_SUBREAPER,
    StopWatch,
    end_children,
    prctl,
    read_rank,
)
from provision.onhost.ranks import Ranks
from provision.onhost.torchrun import begin, log_lines, take_plan, take_secrets

POLL = 0.2  # seconds. Nobody notices a stop 0.2 s late; five stat() a second cost nothing
CANNOT_START = 127  # a shell's code for a command that is not there
LINGER = 30.0  # seconds, at most, to tell those that don't know yet how this node ended
SUMMARY = 5.0  # seconds that a torchrun without ranks has to say how they ended
HEED_AFTER = 0.5  # seconds in which what ends here, too, is told from its consequences elsewhere
# Seconds; plan.json's ``limits`` go over them. ``grace`` is between SIGTERM and SIGKILL of a stop
# that was asked for; after a failure no checkpoint can be saved any more that needs all ranks.
# ``stalled``: how long a save may move nothing (weights are gathered on the GPUs before).
LIMITS = {
    "grace": 15.0,
    "failure_grace": 3.0,
    "lost_after": LOST_AFTER,
    "stopped": 5.0,
    "stalled": 120.0,
}


class Node:
    """One node of a run: its torchrun, its peers, and why it is to end."""

    def __init__(self, run_dir: str, plan: dict[str, Any]) -> None:
        self.run_dir, self.plan = run_dir, plan
        self.limits: dict[str, float] = {**LIMITS, **plan.get("limits", {})}
        self.asked = listen(run_dir)
        nodes = (plan.get("peers") or {}).get("nodes", [])
        names = {node["node_rank"]: node.get("host") for node in nodes}
        self.host = names.get(plan["node_rank"]) or socket.gethostname()
        self.heartbeat: Heartbeat | None = None
        self.cause: dict[str, Any] | None = None
        self.own = False
        self.ranks: Ranks | None = None
        self.pausing = Pausing(run_dir, plan, self.limits)
        self.heed_at: float | None = None
        self.deadline: float | None = None  # of the graceful stop, once there is one
        self.forced = False
        self.end: dict[str, Any] = dict.fromkeys(("stopped_at", "oom_kills", "saved_step"))
        self.end.update(started_at=time.time(), code=CANNOT_START, error="")

    def found(self, kind: str, reason: str, **more: Any) -> dict[str, Any]:
        """A cause that was found on this node."""
        return make_cause(kind, self.host, self.plan["node_rank"], reason, **more)

    def turn(self, seconds: float) -> None:
        """Let time pass, and the peers speak."""
        if self.heartbeat:
            self.heartbeat.turn(seconds)
        else:
            time.sleep(seconds)

    def tell(self, state: str) -> None:
        """Tell the peers how this node fares, and what was found here."""
        if self.heartbeat:
            self.heartbeat.tell(state, self.cause if self.own else None)

    def look(self, watch: StopWatch) -> dict[str, Any] | None:
        """Why the node is to be stopped now, by what is seen on this host."""
        if self.asked():
            return self.found("asked", "a stop was asked for on %s" % self.host)
        stuck = watch.read_stuck(time.monotonic())
        if not stuck:
            return self.failed()
        pid, seconds = stuck
        who = read_rank(pid)
        name = "rank %d" % who["rank"] if who else "torchrun"
        reason = "%s (pid %d) was stopped by a signal %.0f s ago and not continued"
        return self.found("stuck", reason % (name, pid, seconds), **who)

    def failed(self, *, at_once: bool = False) -> dict[str, Any] | None:
        """The rank of this node that has failed, while torchrun lives."""
        failure = self.ranks and self.ranks.read_failed(time.monotonic(), at_once=at_once)
        return self.found("failed", **failure) if failure else None

    def watch(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Wait for torchrun's end; bring it about when somebody asks for it, or has failed."""
        watch = StopWatch(torchrun.pid, self.limits["stopped"])
        self.ranks = Ranks(self.run_dir, self.plan, torchrun.pid, self.limits["stopped"])
        while torchrun.poll() is None:
            if self.cause is None:
                cause = self.judge(watch)
                if cause:
                    self.stop(cause, torchrun)
            elif self.pausing.on:
                self.wait_for_save(torchrun)
            elif self.asked() == NOW:
                self.hurry()
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.force(torchrun)
            self.turn(POLL)
        self.end["code"], self.end["torchrun_ended_at"] = torchrun.returncode, time.time()
        if self.end["code"] == 0 and self.pausing.on:
            self.end["saved_step"] = self.pausing.saved_step

    def judge(self, watch: StopWatch) -> dict[str, Any] | None:
        """Why the node is to be stopped now, if it is: found here, or by the peers."""
        cause = self.look(watch)
        if cause is None and self.heartbeat:
            cause = self.heartbeat.judge()
            log_lines(self.run_dir, self.heartbeat.news())
            if cause and cause["symptom"] and not self.heartbeat.own:
                return self.heed(cause)
            self.own = bool(cause) and self.heartbeat.own
            return cause
        self.own = cause is not None
        return cause

    def heed(self, symptom: dict[str, Any]) -> dict[str, Any] | None:
        """A peer's ranks have seen another end: was it one of this node? torchrun may not know yet,
        and would never say if it were stopped now.
        """
        now = time.monotonic()
        self.heed_at = now + HEED_AFTER if self.heed_at is None else self.heed_at
        cause = self.failed(at_once=True)
        self.own = cause is not None
        return cause or (symptom if now > self.heed_at else None)

    def stop(self, cause: dict[str, Any], torchrun: subprocess.Popen[bytes]) -> None:
        """From now on this node is being stopped, and everybody knows.

        A torchrun without ranks, which waits for other nodes, has nothing to save, and heeds no
        SIGTERM: its rendezvous is in C++.
        """
        self.cause = cause
        asked, ranks = cause["kind"] == "asked", bool(self.ranks and self.ranks.any)
        if not asked or not self.own:
            log_lines(self.run_dir, ["stopping: %(host)s: %(reason)s" % cause])
        if asked and ranks and self.asked() != NOW and self.pausing.begin(time.monotonic()):
            log_lines(self.run_dir, ["saving a checkpoint before the stop"])
            self.tell(self.pausing.state)
            return
        self.terminate(torchrun, self.limits["grace" if asked and ranks else "failure_grace"])

    def terminate(self, torchrun: subprocess.Popen[bytes], grace: float) -> None:
        """SIGTERM now, SIGKILL after so many seconds. A torchrun that ends its ranks already is
        left alone: by the signal it would leave out which of them failed, and how.
        """
        self.deadline = time.monotonic() + grace
        self.end["stopped_at"] = time.time()
        self.tell("stopping")
        if not (self.own and self.ranks and self.ranks.closing):
            os.killpg(torchrun.pid, signal.SIGTERM)
        if self.asked() == NOW:
            self.hurry()

    def wait_for_save(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Go on with a stop that lets the ranks save, or end it."""
        now, peers = time.monotonic(), self.heartbeat.states if self.heartbeat else {}
        failure = self.failed()
        if failure:
            self.cause, self.own, why = failure, True, failure["reason"]
        elif self.asked() == NOW:
            why = "it is to stop at once"
        else:
            lost = self.heartbeat.lost() if self.heartbeat else []
            moved = self.ranks.read_moved if self.ranks else lambda: 0
            why = "%s is lost" % lost[0] if lost else self.pausing.over(now, peers, moved)
        if not why:
            self.tell(self.pausing.state)
            return
        self.pausing.end()
        log_lines(self.run_dir, ["not saved: %s" % why])
        self.terminate(torchrun, self.limits["failure_grace" if failure else "grace"])

    def hurry(self) -> None:
        """Somebody has asked again."""
        soon = time.monotonic() + self.limits["failure_grace"]
        self.deadline = min(self.deadline or soon, soon)

    def force(self, torchrun: subprocess.Popen[bytes]) -> None:
        """The time is up: SIGKILL, for the ranks first where torchrun will then say how they ended.

        torchrun's group is its alone: its ranks are ended by end_children.
        """
        if self.ranks and self.ranks.closing and not self.forced:
            self.forced = True
            self.ranks.kill()
            self.deadline = time.monotonic() + SUMMARY
        else:
            os.killpg(torchrun.pid, signal.SIGKILL)

    def patience(self) -> float:
        """Seconds that what torchrun left behind has to end by itself."""
        if self.forced:
            return 0.0
        if self.deadline is not None:
            return max(0.0, self.deadline - time.monotonic())
        return self.limits["failure_grace" if self.end["code"] else "grace"]

    def settle(self) -> None:
        """Say what failed here; hear what failed elsewhere, if this reads as its consequence."""
        if self.end["code"] != 0 and (self.cause is None or self.cause["symptom"]):
            failure = own_failure(self.run_dir, self.plan, self.end)
            if failure and (self.cause is None or self.own or not failure["symptom"]):
                shown = ("rank", "local_rank", "at", "symptom")
                known = {key: failure[key] for key in shown}
                self.cause, self.own = self.found("failed", failure["reason"], **known), True
        if self.end["code"] != 0 and (self.cause is None or self.cause["symptom"]):
            full = read_full(self.run_dir, self.plan)
            if full:  # then neither the rank nor torchrun could write down why it ended
                reason = "No space left on device: the disk of %s is full" % full
                self.cause, self.own = self.found("full", reason), True
        if self.end["code"] != 0:  # else others may still be about to end well
            self.tell("stopping")

    def conclude(self) -> dict[str, Any]:
        """Write exit.json, once the peers have had the time to name a better cause."""
        if self.heartbeat:
            if self.cause and self.cause["symptom"]:
                self.heartbeat.wait_while(Circle.undecided, self.limits["lost_after"] + 1)
            better = self.heartbeat.cause
            if better and (self.cause is None or self.cause["symptom"]):
                self.cause, self.own = better, self.heartbeat.own
        self.end["cause"], self.end["own"] = self.cause, self.own
        ended = node_exit(self.run_dir, self.plan, self.end)
        reserve = os.path.join(self.run_dir, "reserve")
        with contextlib.suppress(OSError):
            os.unlink(reserve)  # now there is room for exit.json, whatever the run has filled
        write_json(os.path.join(self.run_dir, "exit.json"), ended)
        return ended


def supervise(
    run_dir: str, begun: Callable[[], None], ahead: Ahead | None = None
) -> dict[str, Any]:
    """One node of a run from start to end: its exit.json.

    ``begun()`` is called once torchrun has a pid, or exit.json says why it has none. ``ahead``: a
    torchrun of this process that waits.
    """
    secrets = take_secrets(run_dir)  # first of all: whatever happens, no file has them any more
    plan = take_plan(run_dir)
    node = Node(run_dir, plan)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    keep_room(run_dir)
    oom_before = read_oom_kills()
    torchrun: subprocess.Popen[bytes] | str
    try:
        node.heartbeat = Heartbeat(plan, node.limits)
        torchrun = begin(run_dir, plan, secrets, ahead)
    except HeartbeatError as error:
        torchrun = str(error)
    node.end["torchrun_ended_at"] = time.time()
    if isinstance(torchrun, str):
        node.end["error"] = torchrun
    else:
        begun()
        node.watch(torchrun)
    oom_after = read_oom_kills()
    if oom_before is not None and oom_after is not None:
        node.end["oom_kills"] = oom_after - oom_before
    if node.end["code"] != 0:
        node.end["kernel"] = read_evidence(node.end["started_at"])
    node.settle()
    node.end["left"] = end_children(node.patience(), node.turn)
    ended = node.conclude()
    if isinstance(torchrun, str):
        begun()
    node.tell(ended["state"])
    if node.heartbeat:
        node.heartbeat.linger(LINGER)
    return ended
