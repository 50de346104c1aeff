"""Hold this host's lock for one command of a controller, as long as its connection lives.

    hold.py take JSON    {"user", "host", "what", "token"}: who asks
    hold.py read         who holds it: nothing is taken, no other is disturbed

``take`` answers {"held": null} and holds on, or {"held": record} of who does and ends. It ends
when its stdin does, and so does the lock: the kernel gives up a dead process's flock (flock(2)),
after a power cut too. A controller behind a cut link can't end its stdin: it says something every
few seconds, and counts as gone after SILENCE. Told "confirm", it answers whether the lock is
still its own.

The lock is taken exclusively, then its record is written, then it is held shared: with the commands
of its holder that change what is in use, or remove any of it. They share it to their end, so nobody
takes it before, though its controller may be gone; and one that finds another's token in the record
does nothing. So a controller that slept for longer than SILENCE changes nothing of its successor's.

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

from provision.onhost.converse import fail, reason, reply
from provision.onhost.home import ROOT, make_root
from provision.onhost.processes import is_alive, read_boot_id, read_identity

LOCK = os.path.join(ROOT, "lock")
#: Seconds. A controller speaks every five.
SILENCE = 40.0
#: What a command on this host finds its controller's token in.
WHOSE = "ZEROFLEET_LOCK"
#: Bytes of a record, at least. It is written in place: a disk that is full by now has them.
RECORD = 1024


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
    make_root(ROOT)
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


def write_record(lock: int, record: dict[str, Any] | None) -> None:
    """Put down who has the lock, or that nobody has."""
    data = (json.dumps(record) if record else "").encode().ljust(RECORD)
    os.pwrite(lock, data, 0)
    os.ftruncate(lock, len(data))


def is_shared(lock: int, token: str) -> bool:
    """Hold the lock shared; False where it is, or is about to be, another command's.

    While it is held so, its record stays: only who has it exclusively writes one. flock(2) makes an
    exclusive lock a shared one in two steps, and another may come between.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        record = json.loads(os.pread(lock, os.fstat(lock).st_size, 0))
    except (BlockingIOError, ValueError):
        return False
    return is_own(lock) and bool(record["token"] == token)


def share() -> None:
    """Share the lock of the command that this process is part of, to its end.

    SystemExit where that command has it no more.
    """
    token = os.environ.get(WHOSE)
    with contextlib.suppress(OSError):
        if token and is_shared(os.open(LOCK, os.O_RDONLY), token):
            return
    other = read_holder()
    whose = "%(user)s@%(host)s has it: %(what)s" % other if other else "nobody has it"
    fail("the lock here is this command's no more (did its machine sleep?); %s" % whose)


def take(asker: dict[str, Any]) -> int | None:
    """The lock, with the asker's record in it; None, and an answer, where it is another's."""
    record = {
        **asker,
        "since": time.time(),
        "boot_id": read_boot_id(),
        "process": read_identity(os.getpid()),
    }
    try:
        lock = open_locked()
        if lock is not None:
            write_record(lock, record)
            if is_shared(lock, asker["token"]):
                reply({"held": None})
                return lock
            os.close(lock)
    except OSError as error:  # no space, read-only, a file system without locks
        reply({"error": "%s: %s" % (LOCK, reason(error))})
        return None
    reply({"held": wait_for_record()})
    return None


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
    with contextlib.suppress(OSError):  # a command of its is still at work: the record says whose
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_record(lock, None)


if __name__ == "__main__":
    if sys.argv[1] == "read":
        reply({"held": read_holder()})
    else:
        taken = take(json.loads(sys.argv[2]))
        if taken is not None:
            hold(taken)
