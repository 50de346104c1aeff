"""Run this project's own build on a host: unpack what was pushed, run ``./zf build-deepspeed``.

    build.py JSON    {"unpack": [[archive, sha256, folder]…], "argv": […], "environ": {…}}

Archives and folders are relative to HOME. What the command says on standard error is shown as
progress; the one JSON object on its standard output comes back with its exit code. When the
controller goes away, the build gets what Ctrl-C would give it, and ends its compilers.
Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from typing import IO, Any

from provision.onhost.converse import fail, reply, write
from provision.onhost.files import digest

HOME = os.path.expanduser("~")
#: Seconds an interrupted build has to end its compilers and to remove what is half made.
GRACE = 20


def unpack(archive: str, wanted: str, folder: str) -> None:
    """A pushed archive as a folder named by its content: there as a whole, or not at all."""
    path, target = os.path.join(HOME, archive), os.path.join(HOME, folder)
    if os.path.exists(target):
        return
    found = digest(path)
    if found != wanted:
        fail("%s: sha256 is %s, not %s" % (path, found[:12], wanted[:12]))
    staging = "%s.%d" % (target, os.getpid())
    os.makedirs(staging)
    with tarfile.open(path) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(staging, filter="data")
        else:
            tar.extractall(staging)  # noqa: S202 - the controller made it, and its hash was checked
    try:
        os.rename(staging, target)
    except OSError:  # another build was first
        shutil.rmtree(staging)


class Listener:
    """The controller at the other end. Once it is gone, nothing more is said to it."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        kind = os.fstat(0).st_mode
        #: On a terminal, or /dev/null, nobody's going away can be seen.
        self.watched = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)

    def wait_until_gone(self) -> None:
        """The controller never writes to standard input: its end is the connection's end."""
        while os.read(0, 4096):
            pass
        self.gone.set()

    def say(self, text: str) -> None:
        """A line of progress. A broken pipe only says what standard input's end says as well."""
        if not self.gone.is_set():
            with contextlib.suppress(OSError):
                write("ZEROFLEET-SAY " + text)


def descendants(root: int) -> set[int]:
    """Every process below ``root`` by way of its parents."""
    parents: dict[int, int] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        # pid (name) state ppid …: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
        with contextlib.suppress(OSError, ValueError), open(path, errors="replace") as stream:
            text = stream.read()
            parents[int(text.split(" ", 1)[0])] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def end(process: subprocess.Popen[str]) -> None:
    """Ctrl-C for the build, which ends its own compilers; what is left after GRACE is killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    # Stopped before any is killed: none starts another meanwhile, or goes on as its child ended.
    stopped: set[int] = set()
    while process.poll() is None and (left := descendants(process.pid) - stopped):
        signal_all(left, signal.SIGSTOP)
        stopped |= left
    signal_all(stopped, signal.SIGKILL)


def signal_all(pids: set[int], number: int) -> None:
    """The same signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def follow(stream: IO[str], listener: Listener, kept: list[str]) -> None:
    """Show the build's lines; the last one is kept, for an end without an answer."""
    for line in stream:
        text = line.rstrip()
        if text:
            kept[:] = [text]
            listener.say(text)


def collect(stream: IO[str], kept: list[str]) -> None:
    """All that comes, kept."""
    kept[0] = stream.read()


def build(wanted: dict[str, Any]) -> dict[str, Any]:
    """The build's exit code, its JSON object (None: it gave none) and its last line."""
    for archive, sha256, folder in wanted["unpack"]:
        unpack(archive, sha256, folder)
    # A parent that ignores Ctrl-C (a job in the background) would hand that down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        wanted["argv"],
        env=dict(os.environ, **wanted["environ"]),
        cwd=HOME,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    listener, last, answer = Listener(), [""], [""]
    if listener.watched:
        threading.Thread(target=listener.wait_until_gone, daemon=True).start()
    readers = [
        threading.Thread(target=follow, args=(process.stderr, listener, last), daemon=True),
        threading.Thread(target=collect, args=(process.stdout, answer), daemon=True),
    ]
    for reader in readers:
        reader.start()
    while process.poll() is None:
        if listener.gone.wait(0.2):
            end(process)
    for reader in readers:
        reader.join(5)
    objects = [line for line in answer[0].splitlines() if line.startswith("{")]
    return {
        "code": process.returncode,
        "answer": json.loads(objects[-1]) if objects else None,
        "last": last[0][:500],
    }


if __name__ == "__main__":
    reply(build(json.loads(sys.argv[1])))
