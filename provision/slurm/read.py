"""The run of a Slurm job: what Slurm says of the job, and what the run left in its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.nodes import RUNS
from provision.launch.runs import LAST, KnownRun
from provision.launch.states import State
from provision.script import parse_answer, script_argv
from provision.slurm.jobs import FORGOTTEN, UNASKED, SlurmJob
from provision.slurm.render import JOB_FILE
from provision.slurm.submit import RECORD

#: Runs, each with its job.
Runs = tuple[tuple[KnownRun, SlurmJob], ...]

_ENDS = {"COMPLETED": State.FINISHED, "CANCELLED": State.STOPPED, "FAILED": State.FAILED}


def read_records(shared: Path) -> dict[str, Path]:
    """The Slurm runs below a shared folder: each run's folder by its id, oldest first.

    A job file that nobody has submitted yet is none.
    """
    found = sorted(path.parent for path in (shared / RUNS).glob(f"*/{JOB_FILE}"))
    return {path.name: path for path in found if job_of(path)}


def choose_record(
    records: Mapping[str, Path], jobs: Mapping[str, Sequence[str]], wanted: str
) -> Path | None:
    """The run that is meant by its id, the beginning or end of it, or a job's number. Pure.

    ``jobs``: each run's jobs. None where none of them is; ConfigError where it could be several.
    """
    if wanted == LAST:
        return list(records.values())[-1] if records else None
    # Slurm counts from 1 again after its state was lost: then the newest is meant.
    by_job = [run for run in records if wanted in jobs[run]][-1:]
    # Every run begins with a date, YYYYMMDD: a shorter number is meant to be a job's.
    number = wanted.isdecimal() and len(wanted) < 8
    begun = [] if number else [run for run in records if run.startswith(wanted)]
    fits = (
        [run for run in records if run == wanted]
        or by_job
        or begun
        or [run for run in records if run.endswith(f"-{wanted}")]
    )
    if len(fits) > 1:
        raise ConfigError(
            f"run {wanted}",
            found=f"{len(fits)} that it could be: {', '.join(fits[-5:])}",
            expected="one",
            remedy="give more of it",
        )
    return records[fits[0]] if fits else None


def read_record(shared: Path, wanted: str) -> Path | None:
    """The folder of the Slurm run that is meant; None where none is."""
    records = read_records(shared)
    return choose_record(records, {run: jobs_of(path) for run, path in records.items()}, wanted)


def job_of(run_dir: Path) -> str:
    """The latest job of a run's folder; empty before the first.

    We may have submitted it, or its user: then its latest attempt says so.
    """
    record, attempt = run_dir / RECORD, read_attempt(run_dir)
    own = attempt / "job" if attempt else None
    submitted = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    if own and own.exists() and own.stat().st_mtime > (submitted or {}).get("submitted_at", 0.0):
        return own.read_text(encoding="utf-8").strip()
    return str(submitted["job"]) if submitted else ""


def jobs_of(run_dir: Path) -> tuple[str, ...]:
    """All jobs that a run's folder ever had: one that was resumed had several."""
    own = (path.read_text(encoding="utf-8").strip() for path in run_dir.glob("attempt-*/job"))
    return (*own, job_of(run_dir))


def read_attempt(run_dir: Path) -> Path | None:
    """The folder of the latest attempt; None before the first."""
    attempts = sorted(run_dir.glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return attempts[-1] if attempts else None


def read_nodes(run_dir: Path) -> tuple[str, ...]:
    """The nodes of the latest attempt, by their node ranks; none before the first."""
    attempt = read_attempt(run_dir)
    path = attempt / "nodes" if attempt else None
    return tuple(path.read_text(encoding="utf-8").split()) if path and path.exists() else ()


def read_here(script: str, args: Sequence[str]) -> dict[str, Any]:
    """The answer of ``onhost/<script>.py args…`` on this machine, which sees the shared folder."""
    argv = script_argv(script, args, sys.executable)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return parse_answer("this machine", done.stdout, done.stderr)


def read_run(run_dir: Path, job: SlurmJob) -> KnownRun:
    """The run as any other: its plan and progress as hosts tell them, its state as Slurm has it."""
    answer: Any = read_here("runs", ["show", run_dir.name, str(run_dir.parent)])["runs"]
    if not answer:
        raise ConfigError(
            f"run {run_dir.name}",
            found=f"no plan.json in {run_dir}",
            expected="the folder of a run",
            remedy="the folder was removed in part: see `squeue` or `sacct` for the job",
        )
    return _with_exits(run_dir, answer[0], job)


def read_runs(shared: Path, records: Mapping[str, Path], jobs: Mapping[str, SlurmJob]) -> Runs:
    """All of them in few words, with their jobs; ``jobs`` by their numbers."""
    answer: Any = read_here("runs", ["list", str(shared / RUNS)])["runs"] if records else []
    found = [(one, records[one["run"]]) for one in answer if one["run"] in records]
    known = [(one, path, jobs[job_of(path)]) for one, path in found]
    return tuple((_with_exits(path, one, job), job) for one, path, job in known)


def _with_exits(run_dir: Path, first: Mapping[str, Any], job: SlurmJob) -> KnownRun:
    """The run with all of its nodes, from what its folder says of the first."""
    exits = [_read_exit(run_dir, rank) for rank in range(int(first["nnodes"]))]
    nodes = make_nodes(first, job, read_nodes(run_dir), exits)
    return KnownRun(run=run_dir.name, nodes=nodes)


def _read_exit(run_dir: Path, node_rank: int) -> dict[str, Any] | None:
    attempt = read_attempt(run_dir)
    path = attempt / f"node{node_rank}" / "exit.json" if attempt else None
    if path is None or not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def make_nodes(
    first: Mapping[str, Any],
    job: SlurmJob,
    names: Sequence[str],
    exits: Sequence[Mapping[str, Any] | None],
) -> dict[str, dict[str, Any]]:
    """Every node of a run, from the plan that all of them share. Pure.

    ``exits``: exit.json of each in the latest attempt, None where the job has not written it.
    """
    nodes = {}
    for rank, ended in enumerate(exits):
        name = names[rank] if rank < len(names) else f"node{rank}"
        state, why, found = node_state(job, ended)
        if found is None and state in (State.FINISHED, State.STOPPED):
            found = _silent_exit(first, rank, state)
        nproc = int(first["nproc_per_node"])
        own = range(rank * nproc, (rank + 1) * nproc)
        nodes[name] = {
            **first,
            "node_rank": rank,
            "first_rank": own.start,
            "pace": [line for line in first.get("pace") or () if line.get("rank") in own],
            "state": state,
            "why": why,
            "exit": found,
        }
    return nodes


def node_state(
    job: SlurmJob, ended: Mapping[str, Any] | None
) -> tuple[str, str, Mapping[str, Any] | None]:
    """(state, why it is lost, exit.json) of a node, by Slurm's word and its own. Pure."""
    if job.waits:
        return State.NEVER_STARTED, "", None
    if job.runs:
        return State.RUNNING, "", None
    if ended is not None and (job.state in _ENDS or job.state in (FORGOTTEN, UNASKED)):
        return str(ended["state"]), "", ended
    if job.state == UNASKED:
        return State.UNKNOWN, "", None
    if (state := _ENDS.get(job.state)) in (State.FINISHED, State.STOPPED):
        return str(state), "", None
    return State.LOST, f"the job ended as {job.state}: its log says more", None


def _silent_exit(first: Mapping[str, Any], rank: int, state: str) -> dict[str, Any]:
    """In place of an exit.json that a job had no time to write, as one that was cancelled."""
    loss = (first["progress"] or {}).get("loss")
    return {
        "node_rank": rank,
        "state": state,
        "started_at": first["started_at"],
        "ended_at": first["started_at"],
        "ranks": [],
        "first_failure": None,
        "jit_compiled": [],
        "loss": loss if rank == 0 and loss and None not in loss else None,
    }
