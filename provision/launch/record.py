"""A run's folder on the controller, or a node's own: what lies there, as one value; and what is
kept there that no host's files tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.files import apply_text
from provision.launch.failure import RunOutcome, parse_outcome

#: The name in a run's folder of what a command kept for its report.
KEPT = "report.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run left: by host its plan and exit; node 0's metrics; by rank its pace file
    (trainer/pace.py); what train kept (facts…).
    """

    run: str
    plans: Mapping[str, Mapping[str, Any]]
    outcome: RunOutcome | None
    metrics: Sequence[Mapping[str, Any]] = ()
    paces: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_record(folder: Path) -> RunRecord:
    """What lies in a run's folder; ConfigError if it is none."""
    kept, hosts = read_kept(folder), {path.name: path for path in (folder / "hosts").glob("*/")}
    if (folder / "plan.json").is_file():  # a node's own folder, on that very node
        hosts = {str(kept.get("host", "this node")): folder}
    plans = {name: plan for name, path in hosts.items() if (plan := _json(path / "plan.json"))}
    if not plans:
        raise ConfigError(
            f"run folder {folder}",
            found="no hosts/*/plan.json in it" if folder.is_dir() else "nothing there",
            expected="what train or invoke collect brought of a run",
            remedy=f"invoke collect {folder.name}, or name another run or --runs FOLDER",
        )
    names = sorted(plans, key=lambda name: plans[name]["node_rank"])
    exits = {name: e for name in names if (e := _json(hosts[name] / "exit.json"))}
    lost = dict(kept.get("lost") or {})
    lost |= {name: "no exit.json was brought" for name in names if name not in {**exits, **lost}}
    run = str(plans[names[0]]["run"])
    return RunRecord(
        run=run,
        plans={name: plans[name] for name in names},
        outcome=parse_outcome(
            run, exits, lost=lost, clock_offsets=kept.get("clock_offsets"),
            stopping=bool(kept.get("interrupted")),
        ),
        metrics=read_metrics(hosts[names[0]] / "metrics.jsonl"),
        paces=read_paces(tuple(hosts.values())),
        kept=kept,
    )  # fmt: skip


def read_metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The events of a metrics.jsonl, none without one; half a line is left out.

    So is a step that has no number where one belongs: a user's own script may write anything.
    """
    events = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and _is_whole(event):
                events.append(event)
    return tuple(events)


def _is_whole(event: Mapping[str, Any]) -> bool:
    if event.get("event") not in ("step", "eval"):
        return True
    needed = ("step", "at") if event["event"] == "step" else ("step",)
    values = (value for key, value in event.items() if key != "event" and value is not None)
    numbers = all(isinstance(value, int | float) for value in values)
    return numbers and all(event.get(key) is not None for key in needed)


def read_paces(hosts: Sequence[Path]) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """Each rank's pace file, by rank."""
    found = {}
    for path in (path for host in hosts for path in host.glob("pace/rank*.jsonl")):
        if (number := path.stem.removeprefix("rank")).isdigit():
            found[int(number)] = read_metrics(path)
    return dict(sorted(found.items()))


def apply_kept(folder: Path, kept: Mapping[str, Any]) -> None:
    """Keep what no host knows beside what was collected: facts, lost hosts, clocks.

    It goes over what was kept before. ConfigError where it can't be written.
    """
    remedy = "name another folder with --runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            str(folder),
            found=error.strerror or str(error),
            expected="a folder that can be made",
            remedy=remedy,
        ) from None
    whole = json.dumps({**read_kept(folder), **kept}, indent=1)
    apply_text(folder / KEPT, whole, remedy=remedy)


def read_kept(folder: Path) -> dict[str, Any]:
    """What was kept in a run's folder; empty if nothing was."""
    found = _json(folder / KEPT)
    return found if isinstance(found, dict) else {}


def read_run_folder(runs: Path, run: str, own: Path | None = None) -> Path:
    """The folder of a run by its id, by as much of it as names one, or ``last``.

    ``own``: where this machine keeps its own part of runs, those that a person started on it.
    """
    nodes = {path.name: path for path in own.glob("*/") if _json(path / "plan.json")} if own else {}
    brought = {path.name: path for path in runs.glob("*/") if (path / "hosts").is_dir()}
    folders = [path for _, path in sorted({**nodes, **brought}.items())]
    found = [path for path in folders if path.name == run] or (
        folders[-1:] if run == "last" else [p for p in folders if p.name.startswith(run)]
    )
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"run {run}",
        found=", ".join(path.name for path in found[:5]) or f"none such in {runs}",
        expected="one run that was collected here",
        remedy="write more of its id" if found else f"invoke collect {run}, or name --runs FOLDER",
    )
