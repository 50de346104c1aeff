"""Run a local command: its output line by line while it runs, into a log, and no orphans."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

#: Seconds without news after which ``on_idle`` is called, unless told otherwise.
IDLE_S = 20.0
#: Seconds that processes get to end by themselves after SIGTERM.
GRACE_S = 5.0
#: And the kernel to be rid of them after SIGKILL, however busy the machine is.
KILL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as it will be run: nothing of the caller's environment is added to it."""

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None


def apply_command(
    command: Command,
    *,
    log: IO[str],
    on_line: Callable[[str], None] = lambda _line: None,
    on_idle: Callable[[float], None] = lambda _seconds: None,
    idle_after: float = IDLE_S,
    record: Path | None = None,
) -> int:
    """Run a command to its end and return its exit status (negative: the signal that ended it).

    Stdout and stderr go to ``log`` and, line by line, to ``on_line``; ``on_idle`` gets the
    seconds since the start whenever ``idle_after`` passed without a line. Whatever ends this call
    early (Ctrl-C, an error in a callback) ends the command and everything it started. What no
    program can answer (kill -9) does not: ``record`` then names what was left, for
    apply_end_recorded.
    """
    with subprocess.Popen(
        command.argv,
        env=dict(command.environ),
        cwd=command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A session of its own: Ctrl-C reaches us alone, and we end the session as a whole.
        start_new_session=True,
    ) as process:
        try:
            if record is not None:
                record.write_text(json.dumps(_identity(process.pid)), encoding="utf-8")
            for line in _lines(process, on_idle, idle_after):
                log.write(line + "\n")
                on_line(line)
            log.flush()
            status = process.wait()
        except BaseException:
            _end_session(process.pid, process.poll)
            raise
    if record is not None:
        record.unlink(missing_ok=True)
    return status


def apply_end_recorded(record: Path) -> bool:
    """End what is left of a command whose caller was killed; True when there was something.

    A session's number is not given out anew while any process of it lives; so it is the recorded
    one if its leader is still the recorded process, or has gone.
    """
    try:
        pid, started, boot = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
    record.unlink(missing_ok=True)
    now, started_now, boot_now = _identity(pid)
    if boot_now != boot or started_now not in ("", started) or not _session_members(now):
        return False
    _end_session(pid)
    return True


def _identity(pid: int) -> tuple[int, str, str]:
    """A process beyond doubt: its number, its start in ticks ("" if it has gone), the boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return pid, "", boot
    # starttime is field 22, and the name, field 2, may hold anything
    return pid, stat.rpartition(")")[2].split()[19], boot


def _lines(
    process: subprocess.Popen[bytes], on_idle: Callable[[float], None], idle_after: float
) -> Iterator[str]:
    assert process.stdout is not None
    started = time.monotonic()
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(idle_after):
                on_idle(time.monotonic() - started)
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            # Progress bars end their lines with a carriage return.
            *lines, rest = re.split(r"\r\n|[\r\n]", rest + decode(chunk, final=not chunk))
            yield from lines
            if not chunk:
                break
    if rest:
        yield rest


def _end_session(session: int, reap: Callable[[], object] = lambda: None) -> None:
    """End every process of the command's session: ninja gives each compiler a process group of
    its own, so ending the command's group is not enough.
    """
    for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
        deadline, told = time.monotonic() + seconds, set[int]()
        while left := set(_session_members(session)):
            for pid in left - told:  # one that was being forked was no member at first
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= left
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
            reap()  # so that it stops counting as a member
        else:
            return


def _session_members(session: int) -> tuple[int, ...]:
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # pid (name) state ppid pgrp session …; the name may hold spaces and brackets
            # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
            state, _ppid, _pgrp, sid = (
                entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
            )
            if int(sid) == session and state != "Z":
                members.append(int(entry.parent.name))
    return tuple(members)
