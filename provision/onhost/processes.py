"""Processes of a run: who they are, and how they are ended.

By pid and never by name. A supervisor ends only its direct children, whose pids can't be reused
before it reaps them; of one that was killed, a stop ends what its record names. torchrun gives
every rank a session of its own (``start_new_session`` in torch's SubprocessHandler), so ranks
outlive a torchrun that was killed; the supervisor is therefore their subreaper (prctl(2)): orphans
become its direct children, whatever session they are in, and are ended one generation after
another.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from typing import Callable

POLL = 0.05  # seconds; ends are looked for this often
LOOK_EVERY = 1.0  # seconds; stopped ranks are looked for this often
GIVE_UP = 10.0  # seconds after SIGKILL
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def read_boot_id() -> str:
    """The kernel's id of this boot: pids and start times mean nothing after another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_stat(pid: int) -> tuple[str, int, int, int] | None:
    """(state, ppid, pgid, start time in clock ticks since boot) of a process, or None: proc(5)."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1]), int(fields[2]), int(fields[19])


def read_exit_code(pid: int) -> int | None:
    """How a process has ended that nobody has reaped yet, as subprocess says it; None otherwise."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] != "Z" or len(fields) < 50:
        return None
    status = int(fields[49])  # as waitpid(2) has it
    return -(status & 0x7F) or status >> 8


def read_moved_bytes(pid: int) -> int:
    """Bytes that a process has read and written so far, over the network too; 0 if unknown.

    proc(5), io. A save under ZeRO-3 gathers weights before it writes any.
    """
    try:
        with open("/proc/%d/io" % pid, encoding="ascii") as file:
            pairs = dict(line.split(": ") for line in file.read().splitlines())
        return sum(int(pairs[name]) for name in ("rchar", "wchar", "write_bytes"))
    except (OSError, KeyError, ValueError):
        return 0


def read_identity(pid: int) -> dict[str, int] | None:
    """What names a process for ever: pid and start time (and the boot, see the record)."""
    stat = read_stat(pid)
    return stat and {"pid": pid, "pgid": stat[2], "start_time": stat[3]}


def is_alive(identity: dict[str, int] | None, boot_id: str) -> bool:
    """Whether the very process that a record names still runs."""
    if not identity or boot_id != read_boot_id():
        return False
    stat = read_stat(identity["pid"])
    return stat is not None and stat[0] not in "ZX" and stat[3] == identity["start_time"]


def read_children(parent: int) -> list[int]:
    """Pids of a process's direct children, for a subreaper adopted ones included."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = ((pid, read_stat(pid)) for pid in pids)
    return [pid for pid, stat in stats if stat and stat[1] == parent]


def read_rank(pid: int) -> dict[str, int]:
    """{"rank", "local_rank"} of a process that torchrun started; empty for any other."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            pairs = dict(pair.partition(b"=")[::2] for pair in file.read().split(b"\0"))
    except OSError:
        return {}
    names = (("rank", b"RANK"), ("local_rank", b"LOCAL_RANK"))
    return {key: int(pairs[name]) for key, name in names if pairs.get(name, b"").isdigit()}


class StopWatch:
    """Notices when torchrun or one of its ranks is stopped (SIGSTOP) and not continued."""

    def __init__(self, torchrun: int, limit: float) -> None:
        self.torchrun, self.limit = torchrun, limit
        self.since: dict[int, float] = {}
        self.looked = float("-inf")

    def read_stuck(self, now: float) -> tuple[int, float] | None:
        """(pid, seconds) of a process that was stopped for longer than the limit; or None.

        A process that a debugger holds is in another state, and is not meant.
        """
        if now - self.looked < LOOK_EVERY:
            return None
        self.looked = now
        stats = {pid: read_stat(pid) for pid in [self.torchrun, *read_children(self.torchrun)]}
        stopped = [pid for pid, stat in stats.items() if stat and stat[0] == "T"]
        self.since = {pid: self.since.get(pid, now) for pid in stopped}
        # A rank rather than torchrun: it is the one that others wait for.
        late = [pid for pid, since in self.since.items() if now - since > self.limit]
        return (late[-1], now - self.since[late[-1]]) if late else None


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(%d)" % option)


def end_recorded(recorded: list[dict[str, int]], boot_id: str, grace: float) -> None:
    """End those processes of a record that still run, and have no supervisor any more.

    SIGTERM first; SIGKILL for what is left after ``grace`` seconds. They are no children of this
    process: each is known by its pid, when it started, and the boot.
    """
    deadline, asked = time.monotonic() + grace, False
    while True:
        left = [one["pid"] for one in recorded if is_alive(one, boot_id)]
        late = time.monotonic() > deadline
        for pid in left if late or not asked else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        if late or not left:
            return
        asked = True
        time.sleep(POLL)


def end_children(grace: float, pause: Callable[[float], None] = time.sleep) -> list[int]:
    """End every process that is left of the run, orphans of any depth; reap them all.

    SIGTERM first; SIGKILL for what is left after ``grace`` seconds. A process that not even
    SIGKILL ends within GIVE_UP more (stuck in a driver or on a dead file system, or no longer
    ours to signal) is left, and its pid returned, so that exit.json is written all the same.
    ``pause(seconds)`` is what is done meanwhile.
    """
    deadline, asked = time.monotonic() + grace, set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = read_children(os.getpid())
        if not children or time.monotonic() > deadline + GIVE_UP:
            return children
        late = time.monotonic() > deadline
        for pid in children:
            if late or pid not in asked:
                with contextlib.suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked = set(children)
        pause(POLL)
