"""Bring a run's results to the controller: output of all hosts as one folder, and their logs."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import HostError, ProvisionError
from provision.fleet import Fleet
from provision.launch.plan import LaunchPlan
from provision.session import Remote, Say

#: What of a run folder is worth having at hand, beside the output.
_RECORDS = ("exit.json", "plan.json", "node.log", "supervisor.log", "metrics.jsonl")


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """One file to bring: from ``host``:``source`` to ``target`` below the run's local folder."""

    host: str
    source: str
    target: str
    size: int
    sha256: str


def plan_collect(
    launch: LaunchPlan, outputs: Mapping[str, str], files: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Fetch, ...]:
    """What to bring. Pure.

    Only global rank 0's host gets the model, the others their own shards of a checkpoint: so the
    output is the union over hosts, node 0's file where several have one of the same name.
    Raises HostError for a file of neither folder: what a host answers names no place here.
    """
    fetches: dict[str, Fetch] = {}
    for host, run_dir in launch.run_dirs.items():
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


def apply_collect(fleet: Fleet, launch: LaunchPlan, folder: Path, say: Say) -> Path:
    """Bring output and records below ``folder``; every file is held against its hash there.

    A host that can't be read any more is said and left out: what the others have still comes.
    """
    outputs = {node.host: node.output for node in launch.nodes}
    args: dict[str, Sequence[str]] = {
        host: ["list", outputs[host], *[f"{run_dir}/{name}" for name in _RECORDS]]
        for host, run_dir in launch.run_dirs.items()
    }
    files: dict[str, Sequence[Mapping[str, Any]]] = {}
    for host, answer in fleet.ask("collect", args).items():
        if isinstance(answer, ProvisionError):
            say(f"not collected: {answer}")
        else:
            files[host] = answer["files"]  # type: ignore[assignment]
    fetches = plan_collect(launch, outputs, files)
    total = sum(fetch.size for fetch in fetches)
    say(f"collecting {len(fetches)} files, {total:,} bytes, to {folder}")

    def call(remote: Remote) -> None:
        for fetch in fetches:
            if fetch.host == remote.label:
                _apply_fetch(remote, fetch, folder)

    for error in fleet.fan_out(call, tuple(files)).values():
        if error is not None:
            raise error
    return folder / "output"


def _apply_fetch(remote: Remote, fetch: Fetch, folder: Path) -> None:
    target = folder / fetch.target
    remote.get(fetch.source, target)
    with target.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != fetch.sha256:
        target.unlink()
        raise HostError(
            f"{fetch.host}: {fetch.source}",
            found=f"sha256 {found[:12]} after the transfer",
            expected=fetch.sha256[:12],
            remedy="run the command again; a file that still changes can't be collected",
        )
