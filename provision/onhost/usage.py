"""What of ours is in use on this host: told by what is true now, and unknown counts as in use.

By the processes that a run's record names, by Slurm's queue for the runs of jobs, and by any
process of this user with files of an environment mapped. A home may be shared: of a run on another
host that has not ended, nobody here can say that it does not go on.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import socket
import time
from typing import Any, Iterator

from provision.onhost.command import read_command
from provision.onhost.folder import read_json
from provision.onhost.home import ENVS, RUNS, STORE
from provision.onhost.processes import is_alive, read_boot_id

#: Seconds in which a run whose files are there may yet be started.
STARTING = 3600.0
#: Seconds for Slurm to tell its queue.
QUEUE_SECONDS = 20.0


def read_known(path: str) -> Any:
    """The JSON in a file; {} where there is none to be read."""
    try:
        return read_json(path) or {}
    except (OSError, ValueError):
        return {}


def folders(path: str) -> list[str]:
    """Names of the folders in a folder."""
    with contextlib.suppress(OSError):
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    return []


def read_queue() -> set[str] | None:
    """This user's jobs that wait or run; None where Slurm does not say."""
    argv = ["squeue", "--noheader", "--user=%d" % os.getuid(), "--format=%A"]
    said = read_command(argv, QUEUE_SECONDS)
    return None if said is None else set(said.split())


def goes_on(folder: str) -> bool:
    """Whether a run of this folder goes on, or is about to be started, for all that is known."""
    told = read_known(os.path.join(folder, "record.json"))
    ended = os.path.exists(os.path.join(folder, "exit.json"))
    if told and told.get("boot_id") == read_boot_id():
        return any(is_alive(told.get(who), told["boot_id"]) for who in ("supervisor", "torchrun"))
    if told:  # of another boot: of this host, or in a shared home of another
        return not ended and told.get("hostname", "") not in ("", socket.gethostname())
    plan = os.path.join(folder, "plan.json")
    return not ended and os.path.exists(plan) and time.time() - os.stat(plan).st_mtime < STARTING


def live_runs() -> dict[str, str]:
    """Run → text of its plan, of the runs that go on, or are about to be started."""
    jobs = {
        run: read_known(os.path.join(RUNS, run, "slurm.json")).get("job") for run in folders(RUNS)
    }
    queue = read_queue() if any(jobs.values()) else None
    found = {}
    for run, job in jobs.items():
        folder = os.path.join(RUNS, run)
        if (queue is None or job in queue) if job else goes_on(folder):
            plan = os.path.join(folder, "plan.json")
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


def users(runs: dict[str, str]) -> dict[str, list[str]]:
    """Environment → what uses it; ``runs``: live_runs(), which asks Slurm, and so is asked once."""
    found: dict[str, list[str]] = {}
    for name in folders(ENVS):
        found[name] = ["run %s" % run for run, plan in runs.items() if name in plan]
    for name, process in processes():
        if not found.setdefault(name, []):
            found[name].append(process)
    return {name: by for name, by in found.items() if by}
