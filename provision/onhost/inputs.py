"""What a run reads on a host: its model and its data, and the digests that tell them from others.

Imported by ready.py, and sent along with it. Standard library, Python 3.8.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from provision.onhost.converse import reason, say
from provision.onhost.files import absolute, manifest_rows
from provision.onhost.seen import recall, remember

#: Below it, hashing takes less time than looking whether it was hashed.
LARGE = 64 << 20
#: What transformers loads of a model folder; a README may differ.
MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
SHOWN_FILES = 200


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
            "rotten": rotten(self.named, found),
        }


def rotten(named: dict[str, str], found: dict[str, str]) -> list[str]:
    """Of files that were pushed here, those that hash to other than they were pushed under.

    A file's place in the store names its sha256: for itself, or in the manifest of its folder.
    """
    store = os.path.realpath(absolute(".zerofleet/store"))
    listed: dict[str, dict[str, str]] = {}
    wrong = []
    for name, path in sorted(named.items()):
        parts = os.path.relpath(os.path.realpath(path), store).split(os.sep)
        if parts[0] == os.pardir or len(parts) < 2:
            continue
        pushed, inner = parts[0], "/".join(parts[2:])
        if inner:
            if pushed not in listed:
                listed[pushed] = read_manifest(os.path.join(store, pushed, "manifest"))
            pushed = listed[pushed].get(inner, "")
        if found[name] != pushed:
            wrong.append(name)
    return wrong


def read_manifest(path: str) -> dict[str, str]:
    """Path in the folder → sha256; empty where it can't be read: then nothing is as it lists."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return {name: sha256 for sha256, name in manifest_rows(lines)}
    except OSError:
        return {}


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


def data(found: dict[str, object]) -> dict[str, object]:
    """Digests of the data files; ``found`` is what the trainer's reader says which they are."""
    files = found.get("files")
    if not isinstance(files, dict):
        return found
    try:
        return Digests("data", files).all()
    except OSError as error:
        return {"error": "%s: %s" % (error.filename, reason(error))}
