"""Which environment a host uses, and which it used before.

    switch.py use JSON      {"name", "what", "store"}: current -> envs/NAME, in one step
    switch.py leave JSON    {"what"}: no environment is in use

``name`` must be a complete environment; ``store``: the entries of the store that it was made from,
where that is known. ~/.zerofleet/history.jsonl gets a line first: a line whose
switch never came about does no harm, for a line is looked up by the environment in use. Nothing is
done unless this host's lock is of the command that asks (hold.py).

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from provision.onhost.converse import fail
from provision.onhost.files import sync_folder
from provision.onhost.hold import read_record, share
from provision.onhost.home import CURRENT, ENVS, ROOT, in_use

HISTORY = os.path.join(ROOT, "history.jsonl")


def at_work() -> str:
    """Who has this host's lock: the controller whose command this is."""
    return "%(user)s@%(host)s" % (read_record() or {"user": "?", "host": "?"})


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


def use(name: str, what: str, store: list[str] | None) -> None:
    """Point ``current`` at a complete environment; a link is replaced in one step."""
    if not os.path.exists(os.path.join(ENVS, name, "complete.json")):
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
    sync_folder(ROOT)


def leave(what: str) -> None:
    """Have no environment in use, as before the first deploy."""
    was = in_use()
    if was is None:
        return
    write_down({"at": time.time(), "env": None, "was": was, "by": at_work(), "what": what})
    os.unlink(CURRENT)
    sync_folder(ROOT)


if __name__ == "__main__":
    wanted = json.loads(sys.argv[2])
    share()
    try:
        if sys.argv[1] == "use":
            use(wanted["name"], wanted["what"], wanted.get("store"))
        else:
            leave(wanted["what"])
    except OSError as error:
        fail("%s: %s" % (error.filename or ROOT, error.strerror))
