"""Hold this host's lock for one command of a controller, as long as its connection lives.

    hold.py take JSON    {"user", "host", "what", "token"}: who asks
    hold.py read         who holds it: nothing is taken, no other is disturbed

``take`` answers {"held": null} and holds on, or {"held": record} of who does and ends. It ends
when its stdin does, and so does the lock: the kernel gives up a dead process's flock (flock(2)),
after a power cut too. A controller behind a cut link can't end its stdin: it says something every
few seconds, and counts as gone after SILENCE. Told "confirm", it answers whether the lock is
still its own.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
import time
from typing import Any

from provision.onhost.converse import reply
from provision.onhost.processes import is_alive, read_boot_id, read_identity

ROOT = os.path.join(os.path.expanduser("~"), ".zerofleet")
LOCK = os.path.join(ROOT, "lock")
#: Seconds. A controller speaks every five.
SILENCE = 40.0


def read_record() -> dict[str, Any] | None:
    """The record of who took the lock last; None if there is none."""
    try:
        with open(LOCK, encoding="utf-8") as stream:
            return json.load(stream)  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def read_holder() -> dict[str, Any] | None:
    """The record of who holds the lock; None if nobody does: that process is no more."""
    record = read_record()
    alive = record and is_alive(record["process"], record["boot_id"])
    return record if alive else None


def open_locked() -> int | None:
    """The lock file, locked; None where another process has it."""
    os.makedirs(ROOT, mode=0o700, exist_ok=True)
    while True:
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if is_own(lock):
            return lock
        os.close(lock)  # removed meanwhile, by an undeploy: what is there now is another file


def is_own(lock: int) -> bool:
    """Whether the path still names the file that is locked."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(LOCK))
    except OSError:
        return False


def wait_for_record() -> dict[str, Any]:
    """Who has the lock; whoever took it this instant has yet to write that down.

    The processes of another host that shares this home can't be looked at: its record counts.
    """
    for _ in range(20):
        record = read_holder()
        if record:
            return record
        time.sleep(0.05)
    return read_record() or {"user": "?", "host": "?", "what": "?", "token": "", "since": None}


def take(asker: dict[str, Any]) -> int | None:
    """The lock, with the asker's record in it; None, and an answer, where it is another's."""
    try:
        lock = open_locked()
    except OSError as error:  # no space, read-only, a file system without locks
        reply({"error": "%s: %s" % (LOCK, error.strerror or error)})
        return None
    if lock is None:
        reply({"held": wait_for_record()})
        return None
    record = {
        **asker,
        "since": time.time(),
        "boot_id": read_boot_id(),
        "process": read_identity(os.getpid()),
    }
    os.ftruncate(lock, 0)
    with contextlib.suppress(OSError):  # a full disk: the lock holds, though it can't say whose
        os.write(lock, json.dumps(record).encode())
    reply({"held": None})
    return lock


def hold(lock: int) -> None:
    """Hold on until the controller ends, or is silent for too long."""
    said = b""
    while select.select([0], [], [], SILENCE)[0]:
        part = os.read(0, 4096)
        if not part:
            break
        *lines, said = (said + part).split(b"\n")
        for line in lines:
            if b"confirm" in line:
                reply({"own": is_own(lock)})
    if is_own(lock):
        os.ftruncate(lock, 0)


if __name__ == "__main__":
    if sys.argv[1] == "read":
        reply({"held": read_holder()})
    else:
        taken = take(json.loads(sys.argv[2]))
        if taken is not None:
            hold(taken)
