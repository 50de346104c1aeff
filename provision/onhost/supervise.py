"""Supervise one node of a run: start torchrun, stop it when asked, say how it ended.

    supervise.py start RUN_DIR   become a daemon; one record line once torchrun has a pid
    supervise.py run   RUN_DIR   the same in the foreground, until the run ends
    supervise.py stop  RUN_DIR   ask for a graceful stop, and say the state
    supervise.py state RUN_DIR   say the state

Standard library only, Python >= 3.8, Linux; it is sent to hosts with the files that it imports.
The answer is one line ``ZEROFLEET<<{json}>>ZEROFLEET`` on stdout, found between whatever a login
shell prints. ``start`` and ``run`` exit 0 once torchrun was started, 1 when it was not.

RUN_DIR holds ``plan.json`` before, and after: ``supervisor.log`` (its creation claims the folder:
a run folder is used once), ``record.json``, ``node.log``, ``ranks/``, ``stop`` (ask to stop) and,
written last, ``exit.json``. Exit codes are a shell's: a process ended by signal n has 128 + n,
a torchrun that could not be started 127.

The first failure on any node, a node that is lost, or a request to stop on one of them stops all
(heartbeat.py). How processes are ended: processes.py. How a node ended: ending.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any, Callable

from provision.onhost.ahead import Ahead, bound_to
from provision.onhost.ending import node_exit, own_failure, read_oom_kills
from provision.onhost.folder import (
    read_jit_compiled,
    read_json,
    read_lines,
    read_metrics,
    write_json,
)
from provision.onhost.heartbeat import LOST_AFTER, Circle, Heartbeat, HeartbeatError, make_cause
from provision.onhost.kernel import read_evidence
from provision.onhost.processes import (
    PR_SET_CHILD_SUBREAPER,
    StopWatch,
    end_children,
    is_alive,
    prctl,
    read_boot_id,
    read_children,
    read_identity,
    read_rank,
)

POLL = 0.2  # seconds. Nobody notices a stop 0.2 s late; five stat() a second cost nothing
CANNOT_START = 127  # a shell's code for a command that is not there
LINGER = 30.0  # seconds, at most, to tell those that don't know yet how this node ended
RESERVE = 1 << 18  # bytes kept on disk for exit.json, for the case that a run fills the disk
FULL = 1 << 16  # bytes; a disk that has no more left is full
# Seconds; plan.json's ``limits`` go over them. ``grace`` is between SIGTERM and SIGKILL of a stop
# that was asked for; after a failure no checkpoint can be saved any more that needs all ranks.
LIMITS = {"grace": 15.0, "failure_grace": 3.0, "lost_after": LOST_AFTER, "stopped": 5.0}

# What another launcher, or an outer run, may have left in the environment. PET_* silently become
# torchrun's options (torch/distributed/argparse_util.py); PYTHON* puts other code before ours.
FOREIGN = re.compile(
    r"(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|ROLE_.*|(LOCAL_|GROUP_)?WORLD_SIZE|NNODES"
    r"|NPROC_PER_NODE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|PET_.*|PYTHON(PATH|HOME)|SSH_.*)$"
)


def node_state(run_dir: str) -> dict[str, Any]:
    """The state of a run folder, from its files and the processes that its record names."""
    record = read_json(os.path.join(run_dir, "record.json"))
    # The record first, then the process, then exit.json: a run that ends in between is ended.
    alive = bool(record) and is_alive(record["supervisor"], record["boot_id"])
    ended = read_json(os.path.join(run_dir, "exit.json"))
    if ended:
        state = ended["state"]
    elif alive:
        state = "running"
    else:
        state = "lost" if record else "absent"
    metrics = read_metrics(run_dir)
    return {
        "state": state,
        "stopping": state == "running" and os.path.exists(os.path.join(run_dir, "stop")),
        "record": record,
        "exit": ended,
        "step": metrics["step"],
        "loss": metrics["loss"],
        "jit_compiled": read_jit_compiled(run_dir),
    }


def take_plan(run_dir: str) -> dict[str, Any]:
    """The plan, its heartbeat's secret in no file any more: plan.json is collected and shown."""
    path = os.path.join(run_dir, "plan.json")
    plan: dict[str, Any] = read_json(path)
    if plan.get("peers"):
        shown = {key: value for key, value in plan["peers"].items() if key != "secret"}
        write_json(path, {**plan, "peers": shown})
    return plan


def take_secrets(run_dir: str) -> dict[str, str]:
    """Variables that may stand in no plan; their file is gone once they were read."""
    path = os.path.join(run_dir, "secrets.json")
    secrets: dict[str, str] = read_json(path) or {}
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return secrets


def node_environ(run_dir: str, plan: dict[str, Any]) -> dict[str, str]:
    """The environment of torchrun: this one without foreign variables, then the plan's."""
    environ = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    # Tools of the environment, ninja for one, stand beside its python.
    tools = os.path.dirname(plan["argv"][0])
    environ["PATH"] = os.pathsep.join(filter(None, [tools, environ.get("PATH", os.defpath)]))
    return {**environ, **plan["environ"], **take_secrets(run_dir)}


def spawn_torchrun(
    run_dir: str, plan: dict[str, Any], ahead: Ahead | None = None
) -> subprocess.Popen[bytes]:
    """Start torchrun in its own session; it gets SIGTERM should this process die.

    ``ahead``: one that was started before, to be used if it would be the same.
    """
    supervisor, environ = os.getpid(), node_environ(run_dir, plan)
    if ahead and ahead.fits(plan["argv"], environ):
        ahead.go(plan, environ, run_dir)
        return ahead.process
    if ahead:
        ahead.end()
    log = os.open(os.path.join(run_dir, "node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return subprocess.Popen(
            plan["argv"],
            cwd=os.path.join(run_dir, "code"),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: bound_to(supervisor),  # noqa: PLW1509 (one thread only)
        )
    finally:
        os.close(log)


def listen(run_dir: str) -> Callable[[], bool]:
    """Tells, when called, whether a stop was asked for: by the stop file or by a signal."""
    stop_file, signals = os.path.join(run_dir, "stop"), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: signals.append(number))
    return lambda: bool(signals) or os.path.exists(stop_file)


def read_taken(plan: dict[str, Any]) -> str:
    """What keeps torchrun's rendezvous from listening here; empty if nothing does."""
    port = plan["environ"].get("MASTER_PORT", "")
    if plan["node_rank"] != 0 or not port.isdigit():
        return ""
    for family, where in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where, int(port)))
                return ""
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "master_port %s is taken here by another process: choose another" % port
    return ""


def begin(
    run_dir: str, plan: dict[str, Any], ahead: Ahead | None = None
) -> subprocess.Popen[bytes] | str:
    """Start torchrun and write the record; why not, also in node.log, when it can't be started."""
    record = {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "started_at": time.time(),
        "boot_id": read_boot_id(),
        "supervisor": read_identity(os.getpid()),
        "torchrun": None,
    }
    path = os.path.join(run_dir, "record.json")
    write_json(path, record)
    problem = read_taken(plan)
    if not problem:
        try:
            torchrun = spawn_torchrun(run_dir, plan, ahead)
        except (OSError, subprocess.SubprocessError) as error:
            problem = "torchrun: %s: %s" % (type(error).__name__, error)
    if problem:
        log_lines(run_dir, [problem])
        return problem
    write_json(path, {**record, "torchrun": read_identity(torchrun.pid)})
    return torchrun


def log_lines(run_dir: str, lines: list[str]) -> None:
    """Lines of the supervisor's own in the log that everybody reads."""
    path = os.path.join(run_dir, "node.log")
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as log:
        log.writelines("[zerofleet] %s\n" % line for line in lines)


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
        self.deadline: float | None = None  # of the graceful stop, once there is one
        self.end: dict[str, Any] = {
            "started_at": time.time(),
            "stopped_at": None,
            "code": CANNOT_START,
            "error": "",
            "oom_kills": None,
        }

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
        """Why the node is to be stopped now, if it is."""
        if self.asked():
            return self.found("asked", "a stop was asked for on %s" % self.host)
        stuck = watch.read_stuck(time.monotonic())
        if not stuck:
            return None
        pid, seconds = stuck
        who = read_rank(pid)
        name = "rank %d" % who["rank"] if who else "torchrun"
        reason = "%s (pid %d) was stopped by a signal %.0f s ago and not continued"
        return self.found("stuck", reason % (name, pid, seconds), **who)

    def watch(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Wait for torchrun's end; bring it about when somebody asks for it, or has failed."""
        watch = StopWatch(torchrun.pid, self.limits["stopped"])
        while torchrun.poll() is None:
            if self.cause is None:
                cause = self.judge(watch)
                if cause:
                    self.stop(cause, ranks=bool(read_children(torchrun.pid)))
                    os.killpg(torchrun.pid, signal.SIGTERM)
            elif self.deadline is not None and time.monotonic() > self.deadline:
                # The group is torchrun's alone: its ranks are ended by end_children.
                os.killpg(torchrun.pid, signal.SIGKILL)
            self.turn(POLL)
        self.end["code"], self.end["torchrun_ended_at"] = torchrun.returncode, time.time()

    def judge(self, watch: StopWatch) -> dict[str, Any] | None:
        """Why the node is to be stopped now, if it is: found here, or by the peers."""
        cause = self.look(watch)
        self.own = cause is not None
        if cause is None and self.heartbeat:
            cause = self.heartbeat.judge()
            self.own = bool(cause) and self.heartbeat.own
            log_lines(self.run_dir, self.heartbeat.news())
        return cause

    def stop(self, cause: dict[str, Any], ranks: bool) -> None:
        """From now on this node is being stopped, and everybody knows.

        ``ranks``: whether one has begun, so that there may be something to save. A torchrun that
        still waits for other nodes heeds no SIGTERM: its rendezvous is in C++.
        """
        self.cause = cause
        grace = self.limits["grace" if cause["kind"] == "asked" and ranks else "failure_grace"]
        self.deadline = time.monotonic() + grace
        self.end["stopped_at"] = time.time()
        self.tell("stopping")
        if cause["kind"] != "asked" or not self.own:
            log_lines(self.run_dir, ["stopping: %(host)s: %(reason)s" % cause])

    def patience(self) -> float:
        """Seconds that what torchrun left behind has to end by itself."""
        if self.deadline is not None:
            return max(0.0, self.deadline - time.monotonic())
        return self.limits["failure_grace" if self.end["code"] else "grace"]

    def settle(self) -> None:
        """Say what failed here; hear what failed elsewhere, if this reads as its consequence."""
        if self.end["code"] != 0 and self.cause is None:
            failure = own_failure(self.run_dir, self.plan, self.end)
            if failure:
                shown = ("rank", "local_rank", "at", "symptom")
                known = {key: failure[key] for key in shown}
                self.cause, self.own = self.found("failed", failure["reason"], **known), True
        if self.end["code"] != 0 and (self.cause is None or self.cause["symptom"]):
            full = read_full(self.run_dir, self.plan)
            if full:  # then neither the rank nor torchrun could write down why it ended
                reason = "No space left on device: the disk of %s is full" % full
                self.cause, self.own = self.found("full", reason), True
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
    plan = take_plan(run_dir)
    node = Node(run_dir, plan)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    keep_room(run_dir)
    oom_before = read_oom_kills()
    torchrun: subprocess.Popen[bytes] | str
    try:
        node.heartbeat = Heartbeat(plan, node.limits)
        torchrun = begin(run_dir, plan, ahead)
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
        node.heartbeat.wait_while(Circle.unaware, LINGER)
    return ended


def read_full(run_dir: str, plan: dict[str, Any]) -> str:
    """The run's folder, or the one of its output, if nothing more can be written there."""
    for folder in (run_dir, plan["environ"].get("ZEROFLEET_OUTPUT_DIR", "")):
        if folder and os.path.isdir(folder):
            disk = os.statvfs(folder)
            if disk.f_blocks and disk.f_bavail * disk.f_frsize < FULL:
                return folder
    return ""


def keep_room(run_dir: str) -> None:
    """Bytes on the disk that exit.json can have when the run has filled all others."""
    with open(os.path.join(run_dir, "reserve"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE)


def say(value: dict[str, Any]) -> None:
    """The answer, findable in whatever else a login shell prints; an error also for people."""
    if "error" in value:
        sys.stderr.write("%s\n" % value["error"])
    sys.stdout.write("ZEROFLEET<<%s>>ZEROFLEET\n" % json.dumps(value))
    sys.stdout.flush()


def claim(run_dir: str) -> int | None:
    """Take a run folder for this supervisor: the log it will write, or None when it is taken."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        return os.open(os.path.join(run_dir, "supervisor.log"), flags, 0o600)
    except FileExistsError:
        return None


def refuse(run_dir: str) -> int:
    """Say why a run can't be started here (again)."""
    now = node_state(run_dir)
    why = {
        "running": "this run is already running on this host",
        "absent": "a supervisor is starting this run, or died before it wrote its record",
        "lost": "this run's supervisor died; a run folder is used once: start a new run",
    }.get(now["state"], "this run has ended (%s): start a new run" % now["state"])
    say({**now, "error": why})
    return 1


def leave_session() -> bool:
    """Go on outside of the SSH session; False in the process that stays behind."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)  # a group of its own: a signal to it reaches nothing else
    os.chdir("/")
    return True


def turn_to(log: int) -> None:
    """From now on there is the log to write to, and nothing to read."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)


def close_others(*kept: int) -> None:
    """Close every file but these."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own, closed by now
                os.close(int(name))


def daemonise(log: int, tell: int) -> bool:
    """Leave the SSH session for good; False in the process that stays behind.

    The daemon keeps the log as its output and ``tell``, and nothing else that was open: a pipe
    kept by accident would keep the SSH command from ending.
    """
    if not leave_session():
        return False
    turn_to(log)
    close_others(0, 1, 2, tell)
    return True


def supervise_detached(run_dir: str, tell: int) -> None:
    """The daemon's whole life; never returns. Closing ``tell`` lets ``start`` answer."""
    status = 1
    try:
        supervise(run_dir, lambda: os.close(tell))
        status = 0
    except BaseException:  # noqa: BLE001 (nothing may get past os._exit; the log has it)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def start(run_dir: str) -> int:
    """Start a daemon that supervises the run; wait until torchrun has a pid or could not start."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    answer, tell = os.pipe()
    sys.stdout.flush()
    if daemonise(log, tell):
        supervise_detached(run_dir, tell)
    os.close(tell)
    os.read(answer, 1)  # returns when the daemon closes its end, or dies
    now = started_state(run_dir)
    say(now)
    return 1 if "error" in now else 0


def started_state(run_dir: str) -> dict[str, Any]:
    """The state of a run that was to be started, with ``error`` if it was not."""
    now = node_state(run_dir)
    if now["record"] and now["record"]["torchrun"]:
        return now
    if now["exit"]:
        return {**now, "error": now["exit"]["first_failure"]["reason"]}
    said = read_lines(os.path.join(run_dir, "supervisor.log"))
    return {**now, "error": said[-1] if said else "the supervisor died without a word"}


def run(run_dir: str) -> int:
    """Supervise in the foreground."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    os.close(log)
    ended = supervise(run_dir, lambda: None)
    say(node_state(run_dir))
    return 0 if ended["state"] == "finished" else 1


def stop(run_dir: str) -> int:
    """Ask for a graceful stop; ask torchrun itself should only its supervisor be dead."""
    os.close(os.open(os.path.join(run_dir, "stop"), os.O_WRONLY | os.O_CREAT, 0o600))
    now = node_state(run_dir)
    record = now["record"]
    if now["state"] == "lost" and is_alive(record["torchrun"], record["boot_id"]):
        os.kill(record["torchrun"]["pid"], signal.SIGTERM)
    say(now)
    return 0


def state(run_dir: str) -> int:
    """Say the state."""
    say(node_state(run_dir))
    return 0


COMMANDS = {"start": start, "run": run, "stop": stop, "state": state}


def main(arguments: list[str]) -> int:
    """The exit code; 2 for bad usage."""
    if len(arguments) != 2 or arguments[0] not in COMMANDS:
        sys.stderr.write("usage: supervise.py start|run|stop|state RUN_DIR\n")
        return 2
    run_dir = os.path.abspath(os.path.expanduser(arguments[1]))
    if not os.path.isdir(run_dir):
        say({"state": "absent", "error": "no such run folder: %s" % run_dir})
        return 1
    return COMMANDS[arguments[0]](run_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
