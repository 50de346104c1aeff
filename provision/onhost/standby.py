"""Stand by for a run: import torchrun while the checks go on, then take its folder and start it.

    standby.py PYTHON WAITING

PYTHON: the Python of the run's environment, below HOME unless absolute. Where there is none, or
none is named, torchrun is started when the run is. WAITING: the program waiting.py, for it. A
conversation over stdin and stdout: orders are JSON objects, one a line; each has one answer, with
an ``error`` where it was not carried out:

    {"do": "here"}                                            {}
    {"do": "put", "target", "sha256", "size", "mode"}         a file, whose bytes follow
    {"do": "unpack", "archive", "sha256", "folder"}           a run's code
    {"do": "start", "run_dir"}                                as ``supervise.py start``

After ``start`` this process is the run's supervisor, and the conversation has ended. Until then it
ends with its stdin, or where no order comes in LIFETIME, and what it has imported ends with it.
One start of Python in place of five, on each host.

Standard library only, Python >= 3.8, Linux; sent to hosts with the files that it imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tarfile
import traceback
from typing import Any

from provision.onhost.ahead import Ahead
from provision.onhost.files import absolute
from provision.onhost.node import supervise
from provision.onhost.place import files, make_folder
from provision.onhost.supervise import (
    claim,
    close_others,
    leave_session,
    refuse,
    say,
    started_state,
    turn_to,
)
from provision.onhost.torchrun import FOREIGN, SECRETS
from provision.onhost.unpack import unpack

LIFETIME = 900  # seconds without an order: a controller that vanished without a word
BLOCK = 1 << 20


def begin_ahead(python: str, waiting: str) -> Ahead | None:
    """Torchrun of that Python, imported from now on; None where that can't be."""
    path = absolute(python)
    if not python or not hasattr(os, "memfd_create") or not os.access(path, os.X_OK):
        return None
    with contextlib.suppress(OSError):
        return Ahead(path, waiting, {k: v for k, v in os.environ.items() if not FOREIGN.match(k)})
    return None


def put(order: dict[str, Any]) -> dict[str, Any]:
    """The file whose bytes follow: beside its target, hashed, then renamed."""
    target = absolute(order["target"])
    left = int(order["size"])
    try:
        make_folder(os.path.dirname(target))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(target + ".partial", flags, 0o600), "wb") as file:
            while left:
                block = sys.stdin.buffer.read(min(left, BLOCK))
                if not block:
                    raise OSError("the connection ended")
                left -= len(block)
                file.write(block)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(target + ".partial")
        while left > 0 and sys.stdin.buffer.read(min(left, BLOCK)):
            left -= min(left, BLOCK)  # so that what comes next is an order
        raise
    problems = files([target, order["sha256"], format(order["mode"], "o")])["problems"]
    return {"error": "; ".join(problems)} if problems else {}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order, but for the last one; its answer."""
    try:
        if order["do"] == "put":
            return put(order)
        if order["do"] == "unpack":
            archive, folder = absolute(order["archive"]), absolute(order["folder"])
            return {"files": unpack(archive, order["sha256"], folder)}
        return {}
    except (OSError, ValueError, tarfile.TarError) as error:
        return {"error": str(error)}


def become_supervisor(run_dir: str, ahead: Ahead | None, front: int) -> None:
    """Supervise the run; whoever asked is answered, and let go, once torchrun has begun."""
    log = claim(run_dir)
    if log is None:
        refuse(run_dir)
        if ahead:
            ahead.end()
        return
    os.dup2(log, 2)  # from here on, what nobody expected stands there
    answered = []

    def answer() -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the run goes on
            say(started_state(run_dir))
        turn_to(log)
        os.close(front)
        answered.append(True)

    try:
        supervise(run_dir, answer, ahead)
    except BaseException:  # noqa: BLE001 (the log has it)
        traceback.print_exc()
        if not answered:
            answer()


def converse(python: str, waiting: str, front: int) -> None:
    """Do what the controller says, until it says no more or a run has ended."""
    ahead = begin_ahead(python, waiting)
    secret: list[str] = []
    while True:
        signal.alarm(LIFETIME)
        line = sys.stdin.buffer.readline()
        order = json.loads(line) if line.endswith(b"\n") else {"do": "end"}
        if order["do"] == "start":
            signal.alarm(0)
            become_supervisor(order["run_dir"], ahead, front)
            return
        if order["do"] == "end":
            break
        if order["do"] == "put" and os.path.basename(order["target"]) == SECRETS:
            secret.append(absolute(order["target"]))
        say(obey(order))
    for path in secret:  # no supervisor will take them
        with contextlib.suppress(OSError):
            os.unlink(path)
    if ahead:
        ahead.end()


def main(python: str, waiting: str) -> int:
    """What the SSH session sees: it ends when the one behind it lets go, or dies."""
    answer, front = os.pipe()
    if leave_session():
        try:
            close_others(0, 1, 2, front)
            converse(python, waiting, front)
        except BaseException:  # noqa: BLE001 (nothing may get past os._exit)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(front)
    os.read(answer, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
