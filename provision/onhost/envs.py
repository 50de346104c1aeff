"""What of ours is on this host; remove some of it, or all.

    envs.py list             environments, what uses them, the store, the history of ``current``
    envs.py remove JSON      {"envs": [name], "store": [start of a sha256]}
    envs.py undeploy JSON    {"runs": bool}: all of ~/.zerofleet; false: only if no run is there

What is in use is told by what is true now: the processes that a run's record names, and any process
of this user with files of an environment mapped. ``remove`` and ``undeploy`` look again before they
remove anything; the controller holds this host's lock meanwhile (hold.py).

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import sys
import time
from typing import Any, Iterator

from provision.onhost.converse import reply
from provision.onhost.hold import ROOT, read_holder
from provision.onhost.processes import is_alive

ENVS, STORE, RUNS = (os.path.join(ROOT, name) for name in ("envs", "store", "runs"))
#: Seconds in which a run whose files are there may yet be started.
STARTING = 3600.0
#: What is being removed is called so first: half an environment must not look like one.
REMOVING = ".removing-"


def read_json(path: str) -> Any:
    """The JSON in a file; {} where there is none to be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return {}


def folders(path: str) -> list[str]:
    """Names of the folders in a folder."""
    with contextlib.suppress(OSError):
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    return []


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


def live_runs() -> dict[str, str]:
    """Run → text of its plan, of the runs that go on here, or are about to be started."""
    found = {}
    for run in folders(RUNS):
        folder = os.path.join(RUNS, run)
        plan, record = os.path.join(folder, "plan.json"), os.path.join(folder, "record.json")
        told = read_json(record)
        if told:
            who = (told.get("supervisor"), told.get("torchrun"))
            alive = any(is_alive(one, told.get("boot_id", "")) for one in who)
        else:
            fresh = os.path.exists(plan) and time.time() - os.stat(plan).st_mtime < STARTING
            alive = fresh and not os.path.exists(os.path.join(folder, "exit.json"))
        if alive:
            with contextlib.suppress(OSError), open(plan, encoding="utf-8") as stream:
                found[run] = stream.read()
    return found


def processes() -> Iterator[tuple[str, str]]:
    """(environment, process in words): every process of ours that has files of one mapped."""
    roots = {ENVS, os.path.realpath(ENVS)}
    pattern = re.compile("(?:%s)/([^/\\s]+)/" % "|".join(map(re.escape, roots)))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as stream:
                words = stream.read().decode("utf-8", "replace").split("\0")
            with open("/proc/%s/maps" % pid, encoding="utf-8", errors="replace") as stream:
                used = set(pattern.findall(stream.read()))
        except OSError:  # it ended, or is another user's
            continue
        used.update(pattern.findall(words[0]))  # a venv's python is a link out of it
        said = " ".join([os.path.basename(words[0]), *words[1:]])[:60].strip()
        for name in used:
            yield name, "process %s (%s)" % (pid, said)


def open_entries() -> set[str]:
    """Entries of the store that a process of ours has a file of open: a push is at work on them."""
    roots = tuple(os.path.join(root, "") for root in {STORE, os.path.realpath(STORE)})
    found = set()
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            path = os.readlink(descriptor)
            if path.startswith(roots):
                root = next(root for root in roots if path.startswith(root))
                found.add(path[len(root) :].partition("/")[0])
    return found


def users() -> dict[str, list[str]]:
    """Environment → what uses it."""
    runs = live_runs()
    found: dict[str, list[str]] = {}
    for name in folders(ENVS):
        found[name] = ["run %s" % run for run, plan in runs.items() if name in plan]
    for name, process in processes():
        if not found.setdefault(name, []):
            found[name].append(process)
    return {name: by for name, by in found.items() if by}


def history() -> list[dict[str, Any]]:
    """The lines of switch.py; one torn by a power cut is left out."""
    found = []
    with contextlib.suppress(OSError), open(os.path.join(ROOT, "history.jsonl"), "rb") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def in_use() -> str | None:
    """The environment that ``current`` names."""
    try:
        return os.path.basename(os.readlink(os.path.join(ROOT, "current")))
    except OSError:
        return None


def hashes_in(folder: str) -> list[str]:
    """The sha256s that a lock or a manifest in a folder of the store names."""
    found: set[str] = set()
    for name in ("requirements.txt", "manifest"):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as text:
            found.update(re.findall(r"\b[0-9a-f]{64}\b", text.read()))
    return sorted(found & set(folders(STORE)))


def read_store(sizes: Sizes) -> list[dict[str, Any]]:
    """Every entry of the store: its names, and which other entries it names."""
    runs = live_runs()
    found = []
    for sha256 in folders(STORE):
        folder = os.path.join(STORE, sha256)
        entry = {
            "sha256": sha256,
            "names": sorted(os.listdir(folder)),
            "bytes": sizes.of(folder),
            "names_also": hashes_in(folder),
            "used_by": ["run %s" % run for run, plan in runs.items() if sha256 in plan],
        }
        found.append(entry)
    return found


def read_environment(name: str, sizes: Sizes) -> dict[str, Any]:
    """One environment in few words."""
    folder = os.path.join(ENVS, name)
    record = read_json(os.path.join(folder, "complete.json"))
    kept = ("at", "python", "torch", "torch_cuda", "deepspeed", "accelerator", "wheel")
    return {
        "name": name,
        "complete": bool(record),
        "bytes": sizes.of(folder),
        **{key: record.get(key) for key in kept},
    }


def listed() -> dict[str, Any]:
    """All that is here."""
    sizes = Sizes()
    used = users()
    store = read_store(sizes)
    names = [name for name in folders(ENVS) if not name.startswith(".")]
    environments = [{**read_environment(n, sizes), "used_by": used.get(n, [])} for n in names]
    return {
        "there": os.path.lexists(ROOT),
        "current": in_use(),
        "environments": environments,
        "store": store,
        "runs": {"names": folders(RUNS), "bytes": sizes.of(RUNS), "alive": sorted(live_runs())},
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
    kept, used, runs = [], users(), live_runs()
    for name in wanted["envs"]:
        if name == in_use() or name in used:
            kept.append("envs/%s: in use" % name)
            continue
        folder = os.path.join(ENVS, name)
        if os.path.isdir(folder):
            os.rename(folder, os.path.join(ENVS, "%s%s.%d" % (REMOVING, name, os.getpid())))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder + ".lock")
    for left in glob.glob(os.path.join(glob.escape(ENVS), REMOVING + "*")):
        shutil.rmtree(left)
    starts, busy = tuple(wanted["store"]), open_entries()
    for sha256 in folders(STORE):
        folder = os.path.join(STORE, sha256)
        if not sha256.startswith(starts):
            if sha256 not in busy:
                remove_partial(folder)
        elif sha256 in busy or any(sha256 in plan for plan in runs.values()):
            kept.append("store/%s: in use" % sha256)
        else:
            shutil.rmtree(folder)
    return {"kept": kept}


def undeploy(wanted: dict[str, Any]) -> dict[str, Any]:
    """Remove all of it; nothing while something of it is in use."""
    kept = sorted({who for by in users().values() for who in by} | set(live_runs()))
    if not wanted["runs"] and folders(RUNS):
        kept.append("runs: %s" % ", ".join(folders(RUNS)[:3]))
    if kept:
        return {"kept": kept}
    caches = [os.path.expanduser("~/.cache/zerofleet")]
    if not os.path.isdir(os.path.join(ROOT, "controllers")):
        caches = []  # no build was made here for another machine: a cache here is of its own user
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(ROOT, "current"))  # first: it must not name what is half gone
    for path in [*(os.path.join(ROOT, name) for name in os.listdir(ROOT)), *caches]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    if os.path.islink(ROOT):
        os.rmdir(os.path.realpath(ROOT))
        os.unlink(ROOT)
    else:
        os.rmdir(ROOT)
    return {"kept": []}


if __name__ == "__main__":
    try:
        if sys.argv[1] == "list":
            reply(listed())
        else:
            act = {"remove": remove, "undeploy": undeploy}[sys.argv[1]]
            answer = act(json.loads(sys.argv[2]))
            if answer["kept"]:
                sys.stderr.write("; ".join(answer["kept"])[:300] + "\n")
                raise SystemExit(1)
    except OSError as error:
        sys.stderr.write("%s: %s\n" % (error.filename, error.strerror))
        raise SystemExit(1) from None
