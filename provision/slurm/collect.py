"""A Slurm run's results and records, from its folder: as a run over SSH leaves them here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.collect import Collected, Fetch, apply_fetch, plan_collect, read_missing
from provision.launch.record import apply_kept
from provision.launch.runs import KnownRun
from provision.slurm.read import read_attempt, read_here
from provision.slurm.render import JOB_FILE, JOB_LOG

Say = Callable[[str], None]

#: What a run has once, whichever nodes it had: it comes as that of its first node.
_SHARED = ("metrics.jsonl", "pace", JOB_FILE, JOB_LOG)
_LARGE = 50_000_000


class Folder:
    """The folder that all nodes see, and this machine too."""

    def get(self, source: str, target: Path) -> None:
        """A file of it to ``target``, complete or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def plan_results(
    run: KnownRun, attempt: Path | None, files: Sequence[Mapping[str, Any]]
) -> tuple[Fetch, ...]:
    """What is to be copied: results, what the run has once, each node's log. Pure.

    ``attempt``: the folder of the latest one; ``files`` as onhost/collect.py lists them.
    """
    (first, run_dir), *_ = run.run_dirs.items()
    output = run.outputs[first]
    own = [file for file in files if not is_below(file, attempt)]
    fetches = list(plan_collect({first: run_dir}, {first: output}, {first: own}))
    for rank, host in enumerate(run.nodes):
        if attempt is None:
            break
        node = attempt / f"node{rank}"
        logs = [file for file in files if is_below(file, node)]
        fetches += plan_collect({host: str(node)}, {host: output}, {host: logs})
    return tuple(fetches)


def is_below(file: Mapping[str, Any], folder: Path | str | None) -> bool:
    """Whether a file lies somewhere below a folder. Pure."""
    return folder is not None and Path(str(file["path"])).is_relative_to(folder)


def node_records(run: KnownRun, plan: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """plan.json and exit.json of each node, as hosts have them over SSH, by their paths. Pure.

    ``plan``: the one that all nodes of a job share.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for host, node in run.nodes.items():
        own = {key: node[key] for key in ("node_rank", "first_rank")}
        records[f"hosts/{host}/plan.json"] = {**plan, **own}
        if node["exit"]:
            records[f"hosts/{host}/exit.json"] = node["exit"]
    return records


def apply_results(
    run: KnownRun, run_dir: Path, folder: Path, say: Say, *, checkpoints: bool = False
) -> Collected:
    """Copy what is missing below ``folder``; every file is held against its hash.

    Of a job that had several attempts, the logs of the latest come; job.log tells of all.
    Raises ConfigError for a folder that holds the run itself.
    """
    if run_dir.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"--runs {folder.parent}",
            found="the folder that the job itself writes to",
            expected="another one",
            remedy=f"leave it out; the results are in {run.outputs[next(iter(run.nodes))]}",
        )
    attempt = read_attempt(run_dir)
    output = run.outputs[next(iter(run.nodes))]
    logs = [attempt / f"node{rank}" / "node.log" for rank in range(run.nnodes)] if attempt else []
    paths = [output, *(str(run_dir / name) for name in _SHARED), *map(str, logs)]
    flags = [] if checkpoints else ["--no-checkpoints"]
    files = read_here("collect", ["list", *flags, *paths])["files"]
    wanted = plan_results(run, attempt, files)
    fetches, total = read_missing(wanted, folder, say)
    for fetch in fetches:
        if fetch.size > _LARGE:
            say(f"{fetch.target}: {fetch.size:,} bytes")
        apply_fetch(Folder(), fetch, folder)
    plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
    for name, record in node_records(run, plan).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(record, indent=1), encoding="utf-8")
    if run.ended and run.ended.lost:
        apply_kept(folder, {"lost": dict(run.ended.lost)})
    kept = len(wanted) - len(fetches)
    return Collected(folder=folder, came=len(fetches), kept=kept, size=total, missing={})
