"""May this run start here, now? What the host is asked once, for preflight.

The question is one line of JSON on stdin, because it holds programs:

    {"folders": [PATH…], "model": PATH, "data": PATHS, "rows": PROGRAM,
     "prove": PROGRAM, "python": PATH, "environment": {…}}

What is missing or "" isn't asked. ``rows`` is the trainer's reader, run on ``data``; ``prove`` is
prove.py, run by ``python``. Until the answer there is a line every few seconds: ZEROFLEET-SAY for
a person, ZEROFLEET-ALIVE for the controller alone.

Standard library only, Python 3.8 or later; sent to hosts with the files that it imports. Changes
nothing: the file that shows a folder to be writable is gone at once. What took long to find out
(digests of large files, ops that load) is kept for the next time: seen.py.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from provision.onhost.converse import live, reason, reply
from provision.onhost.home import ROOT
from provision.onhost.inputs import data, model
from provision.onhost.programs import ask_reader, prove


def folder(path: str) -> dict[str, object]:
    """Whether ``path`` can be written: the nearest folder that exists takes a file, really."""
    nearest = os.path.abspath(os.path.expanduser(path))
    if nearest.startswith(ROOT + os.sep):  # a link is followed to a folder that is not there yet
        nearest = os.path.realpath(ROOT) + nearest[len(ROOT) :]
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    answer: dict[str, object] = {"path": path, "nearest": nearest}
    try:
        # First what is left there: a full disk may refuse even the file that is tried.
        found = os.statvfs(nearest)
        answer["free"] = found.f_bavail * found.f_frsize
        # Where the file system keeps no count (btrfs, some network ones) there is no limit.
        answer["inodes"] = found.f_favail if found.f_files else None
        # A file without a name where Linux can make one: not even the folder's time changes.
        with tempfile.TemporaryFile(dir=nearest, prefix=".zerofleet-") as stream:
            stream.write(b"\0" * 4096)
    except OSError as error:
        answer.update(error=reason(error), full=error.errno in (errno.ENOSPC, errno.EDQUOT))
    return answer


def stale_locks() -> list[dict[str, object]]:
    """``lock`` files in the folder that torch compiles extensions in, and their age in seconds.

    torch.utils.file_baton waits for such a file to go, for ever and without a word.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.expanduser(
        os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch_extensions")
    )
    found: list[dict[str, object]] = []
    for pattern in ("*/lock", "*/*/lock"):
        for path in glob.glob(os.path.join(root, pattern)):
            try:
                found.append({"path": path, "age": time.time() - os.stat(path).st_mtime})
            except OSError:  # gone again: somebody builds just now
                continue
    return found


def cpu_seconds() -> float:
    """The least CPU time that a fixed piece of work takes, of several tries: the CPU's own speed.

    CPU time rather than the clock's: whoever else runs there for a moment does not count, and a
    cgroup's quota is a fact of its own. Products of long integers: C code that no Python since 3.8
    has changed.
    """
    number = 3**40000
    times = []
    for _ in range(12):
        began = time.thread_time()
        for _ in range(3):
            number * number
        times.append(time.thread_time() - began)
    return min(times)


def kills_at_logout() -> dict[str, object]:
    """Whether systemd-logind ends this user's processes when the last session closes.

    https://www.freedesktop.org/software/systemd/man/latest/logind.conf.html#KillUserProcesses=
    """
    if not os.path.isdir("/run/systemd/system"):
        return {"kills": False}
    user = pwd.getpwuid(os.getuid()).pw_name
    if os.path.exists(os.path.join("/var/lib/systemd/linger", user)):
        return {"kills": False, "linger": True}
    busctl = shutil.which("busctl")
    name = "org.freedesktop.login1"
    text = ""
    if busctl:
        argv = [busctl, "get-property", name, "/org/freedesktop/login1", name + ".Manager"]
        try:
            text = subprocess.run(
                [*argv, "KillUserProcesses", "KillExcludeUsers"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5,
            ).stdout.decode("utf-8", "replace")  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            text = ""
    if not text.startswith("b "):
        return {"unknown": "logind does not say"}
    excluded = re.findall(r'"([^"]*)"', text)
    return {"kills": text.startswith("b true") and user not in excluded, "user": user}


def answers(wanted: dict[str, object]) -> dict[str, object]:
    """Everything that was asked for, what takes long side by side."""

    def text(key: str) -> str:
        return str(wanted.get(key) or "")

    calls: dict[str, Callable[[], object]] = {}
    if text("data"):
        given = [text(key) for key in ("data", "objective", "rows", "python")]
        calls["rows"] = lambda: ask_reader("rows", *given)
        calls["data"] = lambda: data(ask_reader("files", *given))
    if text("model"):
        calls["model"] = lambda: model(text("model"))
    if text("prove"):
        environment = dict(wanted["environment"])  # type: ignore[call-overload]
        calls["ops"] = lambda: prove(text("prove"), text("python"), environment)
    # Before anything else keeps the CPU busy.
    found: dict[str, object] = {"cpu_seconds": cpu_seconds()}
    folders: list[str] = wanted.get("folders") or []  # type: ignore[assignment]
    found["folders"] = [folder(path) for path in folders]
    found["logout"] = kills_at_logout()
    found["locks"] = stale_locks()
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        started = {name: pool.submit(call) for name, call in calls.items()}
        for name, future in started.items():
            found[name] = future.result()
    return found


if __name__ == "__main__":
    threading.Thread(target=live, daemon=True).start()
    reply(answers(json.loads(sys.stdin.readline())))
