"""How a probe reads: commands, files, many of them at once, each with its deadline.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from typing import Any, Callable, Mapping

#: Seconds for one command.
COMMAND = 30


class Failed(Exception):
    """A command that failed; ``said`` is all that it printed."""

    def __init__(self, text: str, said: str = "") -> None:
        super().__init__(text)
        self.said = said


def value(found: object) -> dict[str, object]:
    """A fact that was read; None and "" mean absent."""
    return {"absent": True} if found is None or found == "" else {"value": found}


def reason(error: BaseException) -> str:
    """Why, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.filename, error.strerror) if error.filename else error.strerror
    text = str(error).strip()
    return text if isinstance(error, Failed) and text else "%s: %s" % (type(error).__name__, text)


def side_by_side(
    calls: Mapping[str, Callable[[], Any]], seconds: float, at_once: int = 64
) -> dict[str, Any]:
    """The value of each call, or its exception (TimeoutError for one that has not ended).

    Threads, because all of it is waiting; daemons, because a read of a dead NFS never returns.
    """
    found: dict[str, Any] = {}
    places = threading.Semaphore(at_once)
    deadline = time.monotonic() + seconds

    def call(name: str, function: Callable[[], Any]) -> None:
        with places:
            try:
                found[name] = function()
            except Exception as error:  # noqa: BLE001 - one may fail, the others must arrive
                found[name] = error

    threads = []
    for name, function in calls.items():
        thread = threading.Thread(target=call, args=(name, function), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = Failed("no answer in %d s" % seconds)
    return {name: found.get(name, late) for name in calls}


def output(argv: list[str], timeout: float = COMMAND) -> str:
    """Stdout of a command; Failed, with what it said, if it failed."""
    name = os.path.basename(argv[0])
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env=dict(os.environ, LC_ALL="C"),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed("%s: no answer in %d s" % (name, timeout)) from None
    out = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        # nvidia-smi says what is wrong on stdout, on one line or two.
        said = done.stderr.decode("utf-8", "replace").strip() or out or "no output"
        line = "; ".join(part.strip() for part in said.splitlines() if part.strip())[:300]
        raise Failed("%s: exit %d: %s" % (name, done.returncode, line), said)
    return out


def read_file(path: str) -> str | None:
    """Text of a file, stripped; None if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def first_match(pattern: str, text: str | None) -> str | None:
    """The first group where a pattern first matches a line's beginning."""
    match = re.search(pattern, text or "", re.MULTILINE)
    return match.group(1) if match else None
