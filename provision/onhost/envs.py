"""What of ours is on this host; remove some of it, or all.

    envs.py list             environments, what uses them, the store, the history of ``current``
    envs.py remove JSON      {"envs": [name], "store": [start of a sha256]}
    envs.py anew JSON        {"name": name}: remove that environment, in use or not, to make it anew
    envs.py undeploy JSON    {"runs": bool}: all of ~/.zerofleet; false: only if no run is there

What is in use is told by what is true now (usage.py). Who removes anything looks again before, and
shares this host's lock, which its controller has, to its end (hold.py).

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import shutil
import sys
from typing import Any

from provision.onhost.converse import reply
from provision.onhost.hold import LOCK, read_holder, share
from provision.onhost.home import CURRENT, ENVS, ROOT, RUNS, STORE, in_use
from provision.onhost.place import hold_store
from provision.onhost.probe_disk import read_home_place
from provision.onhost.switch import leave
from provision.onhost.usage import folders, live_runs, open_entries, read_known, users

#: What is being removed is called so first: half an environment must not look like one.
REMOVING = ".removing-"
BEING_MADE = "a deploy that was cut off makes it still; run the command again in a minute"
AT_PUSH = "store: a push is at work on it; when it has ended, run the command again"


class Sizes:
    """Bytes on the disk; what has several names counts once."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def of(self, path: str) -> int:
        """Of a file, or of a folder and all below it, but for what was counted before."""
        try:
            found = os.lstat(path)
        except OSError:
            return 0
        inode = (found.st_dev, found.st_ino)
        own = 0 if inode in self.seen else found.st_blocks * 512
        self.seen.add(inode)
        if not os.path.isdir(path) or os.path.islink(path):
            return own
        with contextlib.suppress(OSError):
            return own + sum(self.of(entry.path) for entry in os.scandir(path))
        return own


def history() -> list[dict[str, Any]]:
    """The lines of switch.py; one torn by a power cut is left out."""
    found = []
    with contextlib.suppress(OSError), open(os.path.join(ROOT, "history.jsonl"), "rb") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def hashes_in(folder: str, there: set[str]) -> list[str]:
    """The entries of the store, of those ``there``, that a lock or a manifest in one names."""
    found: set[str] = set()
    for name in ("requirements.txt", "manifest"):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as text:
            found.update(re.findall(r"\b[0-9a-f]{64}\b", text.read()))
    return sorted(found & there)


def read_store(sizes: Sizes, runs: dict[str, str]) -> list[dict[str, Any]]:
    """Every entry of the store: its names, which other entries it names, which runs use it."""
    found, there = [], set(folders(STORE))
    for sha256 in sorted(there):
        folder = os.path.join(STORE, sha256)
        entry = {
            "sha256": sha256,
            "names": sorted(os.listdir(folder)),
            "bytes": sizes.of(folder),
            "names_also": hashes_in(folder, there),
            "used_by": ["run %s" % run for run, plan in runs.items() if sha256 in plan],
        }
        found.append(entry)
    return found


def read_environment(name: str, sizes: Sizes) -> dict[str, Any]:
    """One environment in few words."""
    folder = os.path.join(ENVS, name)
    record = read_known(os.path.join(folder, "complete.json"))
    kept = ("at", "python", "torch", "torch_cuda", "deepspeed", "accelerator", "wheel")
    return {
        "name": name,
        "complete": bool(record),
        "bytes": sizes.of(folder),
        **{key: record.get(key) for key in kept},
    }


def listed() -> dict[str, Any]:
    """All that is here."""
    sizes, runs = Sizes(), live_runs()
    used = users(runs)
    store = read_store(sizes, runs)
    names = [name for name in folders(ENVS) if not name.startswith(".")]
    environments = [{**read_environment(n, sizes), "used_by": used.get(n, [])} for n in names]
    return {
        "there": os.path.isdir(ROOT),
        "place": read_home_place(),
        "current": in_use(),
        "environments": environments,
        "store": store,
        "runs": {"names": folders(RUNS), "bytes": sizes.of(RUNS), "alive": sorted(runs)},
        "history": history(),
        "held": read_holder(),
        "bytes": sum(row["bytes"] for row in store + environments) + sizes.of(ROOT),
    }


def remove_partial(folder: str) -> None:
    """What an interrupted push left in an entry of the store; the entry, if that was all."""
    for path in glob.glob(os.path.join(glob.escape(folder), "*.partial*")):
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    with contextlib.suppress(OSError):  # it holds a whole file
        os.rmdir(folder)


def remove(wanted: dict[str, Any]) -> dict[str, Any]:
    """Remove environments and entries of the store, but for what is in use now."""
    runs = live_runs()
    kept, used = [], users(runs)
    for name in wanted["envs"]:
        if name == in_use() or name in used:
            kept.append("envs/%s: in use" % name)
            continue
        if not put_aside(name):
            kept.append("envs/%s: %s" % (name, BEING_MADE))
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(ENVS, name + ".lock"))
    remove_aside()
    if os.path.isdir(STORE):
        kept += remove_stored(set(wanted["store"]), list(runs.values()))
    return {"kept": kept}


def put_aside(name: str) -> bool:
    """Have no environment of that name, at once; False while one that was cut off makes it still.

    ``remove_aside`` takes the time that removing it takes.
    """
    folder = os.path.join(ENVS, name)
    if not os.path.isdir(folder):
        return True
    with open(folder + ".lock", "w") as lock:  # as install.py locks it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if in_use() == name:
            leave("anew")  # first: it must not name what is half gone
        os.rename(folder, os.path.join(ENVS, "%s%s.%d" % (REMOVING, name, os.getpid())))
    return True


def remove_aside() -> None:
    """Remove what was put aside, now or by a command that was interrupted."""
    for left in glob.glob(os.path.join(glob.escape(ENVS), REMOVING + "*")):
        shutil.rmtree(left)


def anew(wanted: dict[str, Any]) -> dict[str, Any]:
    """Remove an environment that is to be made anew, unless anything uses it now."""
    name = wanted["name"]
    by = users(live_runs()).get(name)
    if by or not put_aside(name):
        return {"kept": ["envs/%s: %s" % (name, "in use by " + by[0] if by else BEING_MADE)]}
    remove_aside()
    return {"kept": []}


def remove_stored(starts: set[str], plans: list[str]) -> list[str]:
    """Remove entries of the store, and of all others what interrupted pushes left; what is kept.

    While a push is at work nothing is removed: it goes by what it found here when it began.
    """
    if hold_store(fcntl.LOCK_EX) is None:
        return [AT_PUSH] if starts else []
    kept, busy = [], open_entries()
    lengths = {len(start) for start in starts}
    for sha256 in folders(STORE):
        folder = os.path.join(STORE, sha256)
        if not any(sha256[:length] in starts for length in lengths):
            if sha256 not in busy:
                remove_partial(folder)
        elif sha256 in busy or any(sha256 in plan for plan in plans):
            kept.append("store/%s: in use" % sha256)
        else:
            shutil.rmtree(folder)
    return kept


def undeploy(wanted: dict[str, Any]) -> dict[str, Any]:
    """Remove all of it; nothing while something of it is in use."""
    runs = live_runs()
    kept = sorted({who for by in users(runs).values() for who in by} | set(runs))
    if not wanted["runs"] and folders(RUNS):
        kept.append("runs: %s" % ", ".join(folders(RUNS)[:3]))
    if os.path.isdir(STORE) and hold_store(fcntl.LOCK_EX) is None:
        kept.append(AT_PUSH)
    if kept:
        return {"kept": kept}
    caches = [os.path.expanduser("~/.cache/zerofleet")]
    if not os.path.isdir(os.path.join(ROOT, "controllers")):
        # No build was made here for another machine: what else is in there is of its own user.
        # In a home that hosts share, another's ranks may be reading the tokens.
        caches = [] if os.path.islink(ROOT) else [os.path.join(caches[0], "tokens")]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(CURRENT)  # first: it must not name what is half gone
    ours = [os.path.join(ROOT, name) for name in os.listdir(ROOT)]
    ours.sort(key=lambda path: path == LOCK)  # last: nobody else begins before
    for path in [*caches, *ours]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    remove_root()
    return {"kept": []}


def remove_root() -> None:
    """Remove ~/.zerofleet, empty by now. A file system that is mounted there stays, empty; so does
    a link: who made it may share this home among hosts, each of which has a folder by that name.
    """
    folder = os.path.realpath(ROOT)
    if not os.path.ismount(folder):
        os.rmdir(folder)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "list":
            reply(listed())
        else:
            share()
            act = {"remove": remove, "anew": anew, "undeploy": undeploy}[sys.argv[1]]
            answer = act(json.loads(sys.argv[2]))
            if answer["kept"]:
                sys.stderr.write("; ".join(answer["kept"])[:300] + "\n")
                raise SystemExit(1)
    except OSError as error:
        sys.stderr.write("%s: %s\n" % (error.filename, error.strerror))
        raise SystemExit(1) from None
