"""Bring a run's results to the controller: output of all hosts as one folder, and their logs."""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from provision.errors import HostError, ProvisionError
from provision.fleet import Fleet
from provision.session import Remote, Say

#: What of a run folder is worth having at hand, beside the output.
_RECORDS = ("exit.json", "plan.json", "node.log", "supervisor.log", "metrics.jsonl", "pace")
#: Seconds between two lines of progress; a file of so many bytes is named before it comes.
_SAY_EVERY, _LARGE = 3.0, 50_000_000


class Source(Protocol):
    """Where files come from: a host over SSH, or a folder that is seen from here."""

    def get(self, source: str, target: Path) -> None:
        """Its file to ``target`` here, complete or not at all."""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """One file to bring: from ``host``:``source`` to ``target`` below the run's local folder.

    Of a file that has grown since it was listed, its first ``size`` bytes, which ``sha256`` is of.
    """

    host: str
    source: str
    target: str
    size: int
    sha256: str


def plan_collect(
    run_dirs: Mapping[str, str],
    outputs: Mapping[str, str],
    files: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[Fetch, ...]:
    """What to bring, hosts in node_rank order. Pure.

    Only global rank 0's host gets the model, the others their own shards of a checkpoint: so the
    output is the union over hosts, node 0's file where several have one of the same name.
    Raises HostError for a file of neither folder: what a host answers names no place here.
    """
    fetches: dict[str, Fetch] = {}
    for host, run_dir in run_dirs.items():
        for file in files.get(host, ()):
            path = str(file["path"])
            target = _target(host, path, outputs[host], run_dir)
            fetch = Fetch(
                host=host,
                source=path,
                target=target,
                size=int(file["size"]),
                sha256=str(file["sha256"]),
            )
            fetches.setdefault(target, fetch)
    return tuple(fetches.values())


def _target(host: str, path: str, output: str, run_dir: str) -> str:
    """Where a host's file goes, below the run's local folder."""
    for folder, ours in ((output, "output"), (run_dir, f"hosts/{host}")):
        inside = posixpath.relpath(path, folder)
        if inside != ".." and not inside.startswith("../") and path.startswith("/"):
            return f"{ours}/{inside}"
    raise HostError(
        f"{host}: files of the run",
        found=ascii(path[:200]),
        expected=f"files below {output} or {run_dir}",
        remedy="look at that host: its answer is not that of a run",
    )


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A run's local folder after it was collected.

    ``came`` files of ``size`` bytes, ``kept`` that were here already; ``missing``: what did not
    come, and why, for each host that could not be read whole.
    """

    folder: Path
    came: int
    kept: int
    size: int
    missing: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """The keys that ``invoke collect`` adds to ``--json``."""
        return {
            "collected": str(self.folder),
            "files": self.came,
            "kept": self.kept,
            "bytes": self.size,
            "not_collected": dict(self.missing),
        }


def apply_collect(
    fleet: Fleet,
    run_dirs: Mapping[str, str],
    outputs: Mapping[str, str],
    folder: Path,
    say: Say,
    *,
    checkpoints: bool = False,
) -> Collected:
    """Bring output and records below ``folder``; every file is held against its hash there.

    What is here already, byte for byte, stays. Checkpoints come only when asked for: with
    optimizer states, each can be many times the model. A host that can't be read any more, and a
    file that can't, is said and left out: what else there is still comes.
    """
    flags = [] if checkpoints else ["--no-checkpoints"]
    args: dict[str, Sequence[str]] = {
        host: ["list", *flags, outputs[host], *[f"{run_dir}/{name}" for name in _RECORDS]]
        for host, run_dir in run_dirs.items()
    }
    files: dict[str, Sequence[Mapping[str, Any]]] = {}
    missing: dict[str, str] = {}
    for host, answer in fleet.ask("collect", args).items():
        if isinstance(answer, ProvisionError):
            say(f"not collected: {answer}")
            missing[host] = str(answer)
        else:
            files[host] = answer["files"]  # type: ignore[assignment]
    wanted = plan_collect(run_dirs, outputs, files)
    fetches, _ = read_missing(wanted, folder, say)
    came, failed = _apply_fetches(fleet, tuple(files), fetches, folder, say)
    return Collected(
        folder=folder,
        came=len(came),
        kept=len(wanted) - len(fetches),
        size=sum(fetch.size for fetch in came),
        missing={**missing, **failed},
    )


def read_missing(wanted: Sequence[Fetch], folder: Path, say: Say) -> tuple[list[Fetch], int]:
    """Those files that are not here yet, byte for byte; and how many bytes they are."""
    fetches = [fetch for fetch in wanted if read_digest(folder / fetch.target) != fetch.sha256]
    total = sum(fetch.size for fetch in fetches)
    say(f"collecting {len(fetches)} files, {total:,} bytes, to {folder}")
    return fetches, total


def _apply_fetches(
    fleet: Fleet, hosts: Sequence[str], fetches: Sequence[Fetch], folder: Path, say: Say
) -> tuple[list[Fetch], dict[str, str]]:
    """Bring the files, hosts side by side, and say how far it is: what came; by host, what not."""
    total, lock = sum(fetch.size for fetch in fetches), threading.Lock()
    came: list[Fetch] = []
    failed: dict[str, list[str]] = {}
    told = time.monotonic()

    def call(remote: Remote) -> None:
        nonlocal told
        for fetch in (fetch for fetch in fetches if fetch.host == remote.label):
            if fetch.size > _LARGE:
                say(f"[{fetch.host}] {fetch.target}: {fetch.size:,} bytes")
            try:
                apply_fetch(remote, fetch, folder)
            except HostError as error:  # this file alone
                say(f"not collected: {error}")
                failed.setdefault(fetch.host, []).append(str(error))
                continue
            with lock:
                came.append(fetch)
                if time.monotonic() - told > _SAY_EVERY:
                    told = time.monotonic()
                    say(f"collected {sum(each.size for each in came):,} of {total:,} bytes")

    for host, error in fleet.fan_out(call, hosts).items() if hosts else ():
        if error is not None:
            say(f"not collected: {error}")
            failed.setdefault(host, []).append(str(error))
    return came, {host: said[-1] for host, said in failed.items()}


def read_digest(path: Path) -> str | None:
    """sha256 of a file here, in hexadecimal; None without one."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def apply_fetch(remote: Source, fetch: Fetch, folder: Path) -> None:
    """One file, held to its hash: HostError where what came is another one."""
    target = folder / fetch.target
    remote.get(fetch.source, target)
    if target.stat().st_size > fetch.size:
        os.truncate(target, fetch.size)
    found = read_digest(target) or ""
    if found != fetch.sha256:
        target.unlink()
        raise HostError(
            f"{fetch.host}: {fetch.source}",
            found=f"sha256 {found[:12]} after the transfer",
            expected=fetch.sha256[:12],
            remedy="invoke collect fetches it again; a file that still changes can't be collected",
        )
