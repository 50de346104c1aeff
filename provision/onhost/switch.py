"""Which environment a host uses, and which it used before.

    switch.py use JSON      {"name", "what", "store"}: current -> envs/NAME, in one step
    switch.py leave JSON    {"what"}: no environment is in use

``name`` must be a complete environment; ``store``: the entries of the store that it was made from,
where that is known. ~/.zerofleet/history.jsonl gets a line first: a line whose
switch never came about does no harm, for a line is looked up by the environment in use.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

ROOT = os.path.join(os.path.expanduser("~"), ".zerofleet")
CURRENT = os.path.join(ROOT, "current")
HISTORY = os.path.join(ROOT, "history.jsonl")


def fail(text: str) -> None:
    """End with the line that the controller shows."""
    print(text, file=sys.stderr)
    raise SystemExit(1)


def in_use() -> str | None:
    """The environment that ``current`` names, there or not."""
    try:
        return os.path.basename(os.readlink(CURRENT))
    except OSError:
        return None


def at_work() -> str:
    """Who has this host's lock: the controller whose command this is."""
    try:
        with open(os.path.join(ROOT, "lock"), encoding="utf-8") as stream:
            record = json.load(stream)
        return "%s@%s" % (record["user"], record["host"])
    except (OSError, ValueError, KeyError):
        return "?"


def write_down(line: dict[str, Any]) -> None:
    """One line more, on the disk before anything changes. A torn last line is ended first."""
    with open(HISTORY, "ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(line).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: str) -> None:
    """Have a folder's entries on the disk: fsync(2) says why the file alone is not enough."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def use(name: str, what: str, store: list[str] | None) -> None:
    """Point ``current`` at a complete environment; a link is replaced in one step."""
    if not os.path.exists(os.path.join(ROOT, "envs", name, "complete.json")):
        fail("envs/%s is not complete" % name)
    was = in_use()
    if was == name:
        return
    line = {"at": time.time(), "env": name, "was": was, "by": at_work(), "what": what}
    write_down({**line, "store": store})
    fresh = CURRENT + ".new"  # one name: what a power cut left of it is replaced
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(os.path.join("envs", name), fresh)
    os.replace(fresh, CURRENT)
    sync(ROOT)


def leave(what: str) -> None:
    """Have no environment in use, as before the first deploy."""
    was = in_use()
    if was is None:
        return
    write_down({"at": time.time(), "env": None, "was": was, "by": at_work(), "what": what})
    os.unlink(CURRENT)
    sync(ROOT)


if __name__ == "__main__":
    wanted = json.loads(sys.argv[2])
    try:
        if sys.argv[1] == "use":
            use(wanted["name"], wanted["what"], wanted.get("store"))
        else:
            leave(wanted["what"])
    except OSError as error:
        fail("%s: %s" % (error.filename or ROOT, error.strerror))
