"""Which checkpoints can be gone on from. Standard library only: hosts are asked with it, too.

A checkpoint is the folder ``output_dir/checkpoint-<step>`` **on every host of the run**; no shared
file system is needed. Each host keeps there what its own ranks need: their shards and random
states, and the files common to all. ``checkpoint.json`` is written last on each host, when all else
is on its disk:

    {"step": 500, "save": "9f3c…", "world_size": 4, "ranks": [2, 3], "zero_stage": 2,
     "files": {"latest": {"size": 14, "sha256": "…"}, …}}

A checkpoint is complete on a host when ``checkpoint.json`` is there and every file that it lists
has the size (and, on resuming, the sha256) that it says. It is complete when it is so on every
host, ``save`` is the same on all of them (one word per save: two runs into one folder can't be
mixed up) and their ``ranks`` together are all of ``world_size``. Anything else was torn: by a host
that went down, a full disk, a copy that left something out.

    python3 checkpoints.py OUTPUT_DIR      # what this host has, as JSON between sentinels
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = "checkpoint.json"
#: Names the shards' folder of a checkpoint for any number of ranks (trainer/universal.py), whose
#: ``world_size`` is 0.
LATEST_UNIVERSAL = "latest_universal"
_NAME = re.compile(r"checkpoint-(\d+)$")
_CHUNK = 1 << 22


def write_manifest(
    folder: Path, *, step: int, save: str, world_size: int, ranks: Sequence[int], zero_stage: int
) -> None:
    """Make ``folder`` a complete checkpoint of this host: all files on disk, then the manifest.

    Raises OSError when a file can't be read, or the disk is full.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_synced, paths)
        files = {
            path.relative_to(folder).as_posix(): each
            for path, each in zip(paths, found, strict=True)
        }
    value = {
        "step": step,
        "save": save,
        "world_size": world_size,
        "ranks": list(ranks),
        "zero_stage": zero_stage,
        "files": files,
    }
    partial = folder / (MANIFEST + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / MANIFEST)
    _sync_folder(folder)


def _synced(path: Path) -> dict[str, Any]:
    """A file's size and sha256, after it has reached the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the name, too: https://man7.org/linux/man-pages/man2/fsync.2.html
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def check_folder(folder: Path, *, hashes: bool) -> tuple[dict[str, Any] | None, str | None]:
    """(manifest, None) of a checkpoint that is complete on this host, or (None, what is wrong).

    Without ``hashes`` only sizes are looked at: quick, and it finds what was cut short.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: Mapping[str, Any] = manifest["files"]
        step, save = int(manifest["step"]), str(manifest["save"])
        ranks = [int(rank) for rank in manifest["ranks"]]
        zero_stage, world_size = int(manifest["zero_stage"]), int(manifest["world_size"])
    except FileNotFoundError:
        return None, f"no {MANIFEST}: it was not saved to its end"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{MANIFEST} can't be read ({error})"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return None, f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return None, f"{name} has {path.stat().st_size} bytes of {expected['size']}"
    if hashes:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = pool.map(lambda name: sha256(folder / name), files)
            for name, digest in zip(files, digests, strict=True):
                if digest != files[name]["sha256"]:
                    return None, f"{name} has other bytes than were saved"
    keys = {"step": step, "save": save, "world_size": world_size, "ranks": ranks}
    return {**keys, "zero_stage": zero_stage}, None


def read_checkpoints(output_dir: Path) -> dict[int, dict[str, Any]]:
    """By step, the checkpoints that are complete on this host (by sizes)."""
    found = {}
    for folder in output_dir.glob("checkpoint-*"):
        match = _NAME.match(folder.name)
        if match:
            manifest, _ = check_folder(folder, hashes=False)
            if manifest is not None:
                found[int(match.group(1))] = manifest
    return found


def whole(manifests: Iterable[Mapping[str, Any] | None]) -> str | None:
    """None when these hosts' manifests are one checkpoint, or why they are not. Pure."""
    every: list[Mapping[str, Any]] = []
    for manifest in manifests:
        if manifest is None:
            return "not every host has it"
        every.append(manifest)
    if len({(one["save"], one["step"], one["world_size"]) for one in every}) != 1:
        return "the hosts hold different saves of it"
    here = {rank for one in every for rank in one["ranks"]}
    missing = sorted(set(range(every[0]["world_size"])) - here)
    if missing:
        return f"no host has the shards of rank {', '.join(map(str, missing))}"
    return None


def newest_whole(hosts: Sequence[Mapping[int, Mapping[str, Any]]]) -> int | None:
    """The last step whose checkpoint is complete on all hosts; None when there is none. Pure."""
    steps = sorted({step for host in hosts for step in host}, reverse=True)
    return next((s for s in steps if whole(host.get(s) for host in hosts) is None), None)


if __name__ == "__main__":
    have = {str(step): one for step, one in read_checkpoints(Path(sys.argv[1])).items()}
    # Between sentinels, because a login shell may print noise around it.
    print("ZEROFLEET<<" + json.dumps({"checkpoints": have}) + ">>ZEROFLEET")
