"""How a run does, rank by rank, and what exit code that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision import errors
from provision.launch.pace import RankPace, parse_pace
from provision.launch.runs import KnownRun
from provision.launch.states import State

RANK_COLUMNS = (
    "rank", "host", "state", "pid", "step", "forward", "CPU", "memory", "GPU memory", "why",
)  # fmt: skip
#: What the letters of proc(5) mean for somebody who waits for a rank.
_LETTERS = {
    "R": "running",
    "S": "waiting",
    "D": "waiting for a disk or driver",
    "T": "stopped by a signal (SIGCONT would continue it)",
    "t": "stopped by a debugger",
    "Z": "dead",
    "X": "dead",
    "I": "idle",
}


def exit_code(run: KnownRun) -> int:
    """Of ``status``: 0 while it runs, finished or was stopped; 5 failed or lost; 1 unknown."""
    if run.state in (State.FAILED, State.LOST):
        return errors.RANK_FAILED
    if run.state == State.RUNNING:
        return errors.FINDINGS if run.unheard else errors.OK
    return errors.OK if run.state in (State.FINISHED, State.STOPPED) else errors.FINDINGS


def rank_rows(run: KnownRun) -> list[tuple[str, ...]]:
    """A line for each rank of the hosts that told of it, by RANK_COLUMNS."""
    return [row for host, node in run.nodes.items() for row in _node_rows(host, node)]


def _node_rows(host: str, node: Mapping[str, Any]) -> list[tuple[str, ...]]:
    processes = {process["rank"]: process for process in node.get("processes") or ()}
    paces = parse_pace(host, node.get("pace") or ())
    ends = {end["rank"]: end for end in (node["exit"] or {}).get("ranks", ())}
    rows = []
    for rank in range(node["first_rank"], node["first_rank"] + node["nproc_per_node"]):
        if rank in processes:
            rows.append(_running_row(rank, host, processes[rank], paces.get(rank)))
        else:
            state = ends[rank]["state"] if rank in ends else node["state"]
            state = "no process yet, or any more" if state == State.RUNNING else state
            where = _pace_cells(paces.get(rank))
            rows.append((str(rank), host, state, "", *where, "", "", "", _why(rank, node)))
    return rows


def _pace_cells(pace: RankPace | None) -> tuple[str, str]:
    """The last step that a rank logged, and what its forward pass takes; a script has no such."""
    return (str(pace.step), f"{pace.forward_seconds:.3g} s") if pace else ("", "")


def _running_row(
    rank: int, host: str, process: Mapping[str, Any], pace: RankPace | None
) -> tuple[str, ...]:
    gpu = process["gpu_bytes"]
    return (
        str(rank),
        host,
        _LETTERS.get(process["letter"], process["letter"]),
        str(process["pid"]),
        *_pace_cells(pace),
        f"{process['cpu_seconds']:.0f} s",
        _gigabytes(process["resident_bytes"]),
        "" if gpu is None else _gigabytes(gpu),
        "",
    )


def _why(rank: int, node: Mapping[str, Any]) -> str:
    failure = (node["exit"] or {}).get("first_failure")
    if failure and failure["rank"] in (rank, None):
        return str(failure["reason"])
    return str(node["why"])


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
