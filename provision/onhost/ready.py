"""May this run start here, now? What the host is asked once, for preflight.

The question is one line of JSON on stdin, because it holds programs:

    {"folders": [PATH…], "model": PATH, "data": PATHS, "rows": PROGRAM,
     "prove": PROGRAM, "python": PATH, "environment": {…}}

What is missing or "" isn't asked. ``rows`` is the trainer's reader, run on ``data``; ``prove`` is
prove.py, run by ``python``. Until the answer there is a line every few seconds: ZEROFLEET-SAY for
a person, ZEROFLEET-ALIVE for the controller alone.

Standard library only, Python 3.8 or later. Changes nothing: the file that shows a folder to be
writable is gone at once. What took long to find out (digests of large files, ops that load) is kept
in ~/.zerofleet/seen, keyed by path, size, time and inode, and is read there the next time.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
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

from provision.onhost.converse import live, reply, say

SEEN = "~/.zerofleet/seen"
#: Below it, hashing takes less time than looking whether it was hashed.
LARGE = 64 << 20
ROWS_SECONDS, PROVE_SECONDS = 3600, 120
#: What transformers loads of a model folder; a README may differ.
MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
DATA_FILES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
SHOWN_FILES = 200

# What a prover is followed by: its verdict, with nothing written to the environment.
ASK_PROVE = """
import json, sys
print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(prove(json.loads(sys.argv[1]))))
"""


def reason(error: OSError) -> str:
    """Why, in the system's words."""
    return error.strerror or str(error)


# ------------------------------------------------------------------------------ what was seen


def recall(name: str, key: object) -> object:
    """What was found out for this name and key before; None if nothing was."""
    path = os.path.join(os.path.expanduser(SEEN), name + ".json")
    try:
        with open(path) as stream:
            record = json.load(stream)
    except (OSError, ValueError):
        return None
    return record.get("found") if record.get("key") == key else None


def remember(name: str, key: object, found: object) -> None:
    """Keep it for the next time; a host where that fails finds it out again."""
    folder = os.path.expanduser(SEEN)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".partial-")
        with os.fdopen(descriptor, "w") as stream:
            json.dump({"key": key, "found": found}, stream)
        os.replace(partial, os.path.join(folder, name + ".json"))
    except OSError:
        pass


# ------------------------------------------------------------------------------ folders, bytes


def folder(path: str) -> dict[str, object]:
    """Whether ``path`` can be written: the nearest folder that exists takes a file, really."""
    nearest = os.path.abspath(os.path.expanduser(path))
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


class Digests:
    """sha256 of files, several at once, with progress."""

    def __init__(self, what: str, named: dict[str, str]) -> None:
        """``named``: what a file is called in the answer (alike on all hosts) → its path here."""
        self.what, self.named = what, named
        self.total = sum(os.stat(path).st_size for path in named.values())
        self.done, self.said = 0, time.monotonic()
        self.lock = threading.Lock()

    def file(self, path: str) -> str:
        """Hex sha256 of one file."""
        stat = os.stat(path)
        key = [os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
        name = hashlib.sha256(str(key[0]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        known = recall(name, key) if stat.st_size >= LARGE else None
        if isinstance(known, str):
            self.progress(stat.st_size)
            return known
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            block = stream.read(1 << 20)
            while block:
                digest.update(block)
                self.progress(len(block))
                block = stream.read(1 << 20)
        # A file written to within the clock's own step could change under the same time.
        if stat.st_size >= LARGE and time.time() - stat.st_mtime > 5:
            remember(name, key, digest.hexdigest())
        return digest.hexdigest()

    def progress(self, count: int) -> None:
        """A line every few seconds."""
        with self.lock:
            self.done += count
            if time.monotonic() - self.said > 3:
                self.said = time.monotonic()
                done, total = self.done / 1e9, self.total / 1e9
                say("%s: sha256 of %.1f of %.1f GB" % (self.what, done, total))

    def all(self) -> dict[str, object]:
        """One digest over names and bytes, and each file's own where there are not too many."""
        names = sorted(self.named)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            found = dict(zip(names, pool.map(self.file, [self.named[name] for name in names])))
        return {
            "sha256": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest(),
            "files": found if len(found) <= SHOWN_FILES else {},
            "count": len(found),
            "bytes": self.total,
        }


def hub_folder(name: str) -> str | None:
    """The snapshot of a hub model (org/name) in the cache that transformers would use."""
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub"
    )
    root = os.path.join(cache, "models--" + name.replace("/", "--"))
    try:
        with open(os.path.join(root, "refs", "main")) as stream:
            chosen = [os.path.join(root, "snapshots", stream.read().strip())]
    except OSError:
        chosen = sorted(glob.glob(os.path.join(root, "snapshots", "*")))
    return next((one for one in chosen if os.path.exists(os.path.join(one, "config.json"))), None)


def model(path: str) -> dict[str, object]:
    """What a model folder holds: weights, what its configuration says, digests.

    A name that is no path here may be one on the hub (org/name).
    """
    root: str | None = os.path.expanduser(path)
    hub = not os.path.isdir(str(root)) and bool(re.match(r"^[\w.-]+/[\w.-]+$", path))
    if hub:
        root = hub_folder(path)
        if root is None:
            return {"hub": True, "cached": False}
    if root is None or not os.path.isdir(root):
        return {"error": "no such folder"}
    try:
        names = sorted(os.listdir(root))
        if "config.json" not in names:
            return {"error": "no config.json in it"}
        weights = [n for n in names if n.endswith((".safetensors", ".bin"))]
        if not weights:
            return {"error": "no weights (*.safetensors, *.bin) in it"}
        pointers = [n for n in weights if os.path.getsize(os.path.join(root, n)) < 200]
        if pointers:
            return {"error": pointers[0] + " is a git-lfs pointer, not weights"}
        paths = {n: os.path.join(root, n) for n in names if n.endswith(MODEL_FILES)}
        files = {n: path for n, path in paths.items() if os.path.isfile(path)}
        answer: dict[str, object] = {
            "bytes": sum(os.path.getsize(os.path.join(root, n)) for n in weights),
            "digest": Digests("model", files).all(),
        }
        if hub:
            answer.update(hub=True, cached=True)
        with open(os.path.join(root, "config.json"), encoding="utf-8") as stream:
            config = json.load(stream)
    except OSError as error:
        return {"error": "%s: %s" % (error.filename or root, reason(error))}
    except ValueError:
        return {"error": "config.json is no JSON"}
    config = dict(config, **(config.get("text_config") or {}))
    answer["dtype"] = config.get("dtype") or config.get("torch_dtype")
    answer["hidden_size"] = config.get("hidden_size")
    # Its sizes, for the memory planner: no nested settings, nothing long.
    answer["config"] = {
        key: value
        for key, value in config.items()
        if isinstance(value, (int, float, str)) or key == "mlp_only_layers"
    }
    return answer


HUB = "hf://datasets/"


def cached(path: str) -> str:
    """The folder or file of a hub data set in this host's cache, as trainer/rows.py finds it."""
    owner, _, rest = path[len(HUB) :].partition("/")
    name, _, inside = rest.partition("/")
    name, _, revision = name.partition("@")
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    folder = os.path.join(hub, "datasets--%s--%s" % (owner, name))
    commit = revision or "main"
    try:
        with open(os.path.join(folder, "refs", commit), encoding="ascii") as stream:
            commit = stream.read().strip()
    except OSError:
        pass  # a commit itself
    return os.path.join(folder, "snapshots", commit, inside).rstrip("/")


def data(paths: str, objective: str = "sft") -> dict[str, object]:
    """Digests of the data files, as rows.py finds them."""
    endings = (*DATA_FILES, ".txt") if objective == "pretrain" else DATA_FILES
    found: dict[str, str] = {}
    try:
        for part in (part.strip() for part in paths.split(",")):
            path = cached(part) if part.startswith(HUB) else os.path.expanduser(part)
            # Named from the folder that was given on: homes may differ from host to host.
            top = os.path.dirname(os.path.abspath(path))
            each = [path]
            if os.path.isdir(path):
                each = [os.path.join(r, n) for r, _, names in os.walk(path) for n in names]
                each = [one for one in each if one.endswith(endings)]
            found.update({os.path.relpath(one, top): one for one in each})
        return Digests("data", found).all()
    except OSError as error:
        return {"error": "%s: %s" % (error.filename, reason(error))}


# ------------------------------------------------------------------------------ other programs


def ask(argv: list[str], text: str, seconds: float) -> dict[str, object]:
    """The answer between sentinels of a Python program, given over stdin or in its argv."""
    try:
        done = subprocess.run(
            argv, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": "no answer in %d s" % seconds}
    except OSError as error:
        return {"error": "%s: %s" % (argv[0], reason(error))}
    found = re.findall(r"ZEROFLEET<<(.*?)>>ZEROFLEET", done.stdout.decode("utf-8", "replace"))
    if found:
        answer = json.loads(found[-1])
        return dict(answer)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
    return {"error": said[-1][:300]}


def libraries(python: str) -> list[list[object]]:
    """The files of an environment that decide whether ops load: a change of one shows here."""
    root = os.path.dirname(os.path.dirname(python))
    sites = [os.path.join(glob.escape(root), "lib", "python*", "site-packages")]
    with contextlib.suppress(OSError, ValueError), open(root + "/complete.json") as stream:
        # It may lie over a Python of the user's own, which has the torch.
        sites += map(glob.escape, json.load(stream).get("sites") or [])
    found: list[list[object]] = []
    for pattern in ("torch/version.py", "torch/lib/*", "deepspeed/*.py", "deepspeed/**/*.so"):
        for site in sites:
            for name in sorted(glob.glob(os.path.join(site, pattern), recursive=True)):
                stat = os.stat(name)
                found.append([os.path.relpath(name, root), stat.st_size, stat.st_mtime_ns])
    return found


def prove(program: str, python: str, wanted: dict[str, object]) -> dict[str, object]:
    """Whether the wheel's ops load in the environment with JIT compilation off."""
    python = os.path.expanduser(python)
    try:
        key = [wanted, libraries(python), os.confstr("CS_GNU_LIBC_VERSION")]
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    name = "ops-" + hashlib.sha256(python.encode()).hexdigest()[:32]
    if recall(name, key):
        return {"loads": True, "seen": True}
    answer = ask([python, "-c", program + ASK_PROVE, json.dumps(wanted)], "", PROVE_SECONDS)
    if "error" in answer:
        return answer
    remember(name, key, True)
    return {"loads": True}


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


# ------------------------------------------------------------------------------------- the host


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
        # The environment's Python reads .parquet too; before there is one, the host's own will do.
        python = os.path.expanduser(text("python"))
        python = python if os.access(python, os.X_OK) else sys.executable
        paths = [os.path.expanduser(path.strip()) for path in text("data").split(",")]
        argv = [python, "-", text("objective") or "sft", *paths]
        calls["rows"] = lambda: ask(argv, text("rows"), ROWS_SECONDS)
        calls["data"] = lambda: data(text("data"), text("objective"))
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
