"""Supervise one node of a run: start torchrun, stop it when asked, say how it ended.

    supervise.py start RUN_DIR   become a daemon; one record line once torchrun has a pid
    supervise.py run   RUN_DIR   the same in the foreground, until the run ends
    supervise.py stop  RUN_DIR   ask for a graceful stop, and say the state
    supervise.py kill  RUN_DIR   the same, but wait for no checkpoint, and end ranks soon
    supervise.py state RUN_DIR   say the state

Standard library only, Python >= 3.8, Linux; it is sent to hosts with the files that it imports.
The answer is one line ``ZEROFLEET<<{json}>>ZEROFLEET`` on stdout, found between whatever a login
shell prints. ``start`` and ``run`` exit 0 once torchrun was started, 1 when it was not.

RUN_DIR holds ``plan.json`` before, and after: ``supervisor.log`` (its creation claims the folder:
a run folder is used once), ``record.json``, ``ranks.json`` (pids that ranks have had),
``node.log``, ``ranks/``, ``stop`` (ask to stop; with a word in it: at once), ``pause`` (pausing.py)
and, written last, ``exit.json``. Exit codes are a shell's: a process ended by signal n has 128 + n,
a torchrun that could not be started 127.

What a supervisor does between start and end: node.py. How torchrun is started: torchrun.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from typing import Any

from provision.onhost.folder import read_jit_compiled, read_json, read_lines, read_metrics
from provision.onhost.node import LIMITS, supervise
from provision.onhost.processes import end_recorded
from provision.onhost.ranks import KNOWN
from provision.onhost.state import FINISHED, LOST, NEVER_STARTED, RUNNING, read_state
from provision.onhost.torchrun import take_secrets


def node_state(run_dir: str) -> dict[str, Any]:
    """How the node of a run folder stands (state.py), and how far it is."""
    now, metrics = read_state(run_dir), read_metrics(run_dir)
    stopping = now["state"] == RUNNING and os.path.exists(os.path.join(run_dir, "stop"))
    return {
        **now,
        "stopping": stopping,
        "step": metrics["step"],
        "loss": metrics["loss"],
        "jit_compiled": read_jit_compiled(run_dir),
    }


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
        RUNNING: "this run is already running on this host",
        NEVER_STARTED: "a supervisor is starting this run, or died before it wrote its record",
        LOST: "this run's supervisor died; a run folder is used once: start a new run",
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
    return 0 if ended["state"] == FINISHED else 1


def stop(run_dir: str) -> int:
    """Ask for a graceful stop; end torchrun and the ranks themselves should nobody else do so."""
    return ask(run_dir, b"")


def kill(run_dir: str) -> int:
    """Ask for a stop that waits for nothing but the short grace of a failure."""
    return ask(run_dir, b"now\n")


def ask(run_dir: str, how: bytes) -> int:
    """Ask the supervisor; nobody is told a secret any more that no supervisor has taken."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(os.path.join(run_dir, "stop"), flags, 0o600), "wb") as file:
        file.write(how)
    now = node_state(run_dir)
    record = now["record"]
    if now["state"] != RUNNING:
        take_secrets(run_dir)
    if now["state"] == LOST:
        # torchrun gives each rank a session of its own: they outlive it where nobody else ends them
        ranks = read_json(os.path.join(run_dir, KNOWN)) or []
        recorded = [one for one in (record["torchrun"], *ranks) if one]
        end_recorded(recorded, record["boot_id"], 0.0 if how else LIMITS["failure_grace"])
    say(now)
    return 0


def state(run_dir: str) -> int:
    """Say the state."""
    say(node_state(run_dir))
    return 0


COMMANDS = {"start": start, "run": run, "stop": stop, "kill": kill, "state": state}


def main(arguments: list[str]) -> int:
    """The exit code; 2 for bad usage."""
    if len(arguments) != 2 or arguments[0] not in COMMANDS:
        sys.stderr.write("usage: supervise.py start|run|stop|kill|state RUN_DIR\n")
        return 2
    run_dir = os.path.abspath(os.path.expanduser(arguments[1]))
    if not os.path.isdir(run_dir):
        say({"state": NEVER_STARTED, "error": "no such run folder: %s" % run_dir})
        return 1
    return COMMANDS[arguments[0]](run_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
