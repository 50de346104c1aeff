"""What Slurm says of a job and of its nodes, and what the job's run left in its folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.failure import FAILED, FINISHED, LOST, STOPPED
from provision.launch.nodes import RUNS
from provision.launch.progress import RUNNING
from provision.launch.runs import LAST, NEVER_STARTED, KnownRun
from provision.script import parse_answer, script_argv
from provision.slurm.submit import RECORD, read_slurm

_WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")
_RUNS = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
_ENDS = {"COMPLETED": FINISHED, "CANCELLED": STOPPED, "FAILED": FAILED}
#: What Slurm answers of a job that it has forgotten (MinJobAge), or never knew.
FORGOTTEN = "unknown to Slurm"


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """A job as Slurm has it. ``nodes`` is Slurm's short form; times are its texts."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    elapsed: str = ""
    limit: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.state in _WAITS

    @property
    def runs(self) -> bool:
        """Whether it has nodes, or is just giving them back."""
        return self.state in _RUNS

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        where = f" on {self.nodes}" if self.nodes else ""
        times = f", {self.elapsed} of {self.limit}" if self.runs else ""
        again = f", restarted {self.restarts} times" if self.restarts else ""
        return f"Slurm job {self.job}: {self.state}{why}{where}{times}{again}"

    def as_json(self) -> dict[str, object]:
        """The ``slurm`` key of ``--json``; keys are only ever added."""
        return {
            "job": self.job,
            "state": self.state,
            "reason": self.reason,
            "nodes": self.nodes,
            "restarts": self.restarts,
            "elapsed": self.elapsed,
            "limit": self.limit,
        }


def parse_job(job: str, text: str) -> SlurmJob:
    """A job from ``scontrol --oneliner show job``. Pure."""
    fields = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", text))
    nodes = fields.get("NodeList", "")
    return SlurmJob(
        job=job,
        state=fields["JobState"],
        reason=fields.get("Reason", ""),
        nodes="" if nodes == "(null)" else nodes,
        restarts=int(fields.get("Restarts", "0")),
        elapsed=fields.get("RunTime", ""),
        limit=fields.get("TimeLimit", ""),
    )


def read_job(job: str) -> SlurmJob:
    """A job as Slurm has it now, or had it: by its controller, then by its accounting."""
    done = read_slurm(["scontrol", "--oneliner", "show", "job", job])
    if done.returncode == 0 and "JobState=" in done.stdout:
        return parse_job(job, done.stdout)
    fields = ["State", "NodeList", "Elapsed", "Timelimit"]
    argv = ["sacct", "--jobs", job, "--allocations", "--noheader", "--parsable2"]
    past = read_slurm([*argv, "--format", ",".join(fields)])
    if past.returncode == 0 and past.stdout.strip():
        state, nodes, elapsed, limit = past.stdout.strip().splitlines()[-1].split("|")
        # "CANCELLED by 1000"
        return SlurmJob(job=job, state=state.split()[0], nodes=nodes, elapsed=elapsed, limit=limit)
    words = (done.stderr.strip() or past.stderr.strip()).splitlines()
    return SlurmJob(job=job, state=FORGOTTEN, reason=words[-1] if words else "")


def read_records(shared: Path) -> dict[str, Path]:
    """The Slurm runs below a shared folder: each run's folder by its id, oldest first."""
    found = sorted((shared / RUNS).glob(f"*/{RECORD}"))
    return {path.parent.name: path.parent for path in found}


def choose_record(records: Mapping[str, Path], jobs: Mapping[str, str], wanted: str) -> Path | None:
    """The run that is meant by its id, the beginning or end of it, or its job's number. Pure.

    ``jobs``: each run's job. None where none of them is; ConfigError where it could be several.
    """
    if wanted == LAST:
        return list(records.values())[-1] if records else None
    # Slurm counts from 1 again after its state was lost: then the newest is meant.
    by_job = [run for run in records if jobs[run] == wanted][-1:]
    fits = (
        [run for run in records if run == wanted]
        or by_job
        or [r for r in records if r.startswith(wanted) or r.endswith(f"-{wanted}")]
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
    return choose_record(records, {run: job_of(path) for run, path in records.items()}, wanted)


def job_of(run_dir: Path) -> str:
    """The job of a run's folder."""
    return str(json.loads((run_dir / RECORD).read_text(encoding="utf-8"))["job"])


def read_attempt(run_dir: Path) -> Path | None:
    """The folder of the latest attempt; None before the first."""
    attempts = sorted(run_dir.glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return attempts[-1] if attempts else None


def read_nodes(run_dir: Path) -> tuple[str, ...]:
    """The nodes of the latest attempt, by their node ranks; none before the first."""
    attempt = read_attempt(run_dir)
    path = attempt / "nodes" if attempt else None
    return tuple(path.read_text(encoding="utf-8").split()) if path and path.exists() else ()


def read_run(run_dir: Path, job: SlurmJob) -> KnownRun:
    """The run as any other: its plan and progress as hosts tell them, its state as Slurm has it."""
    argv = script_argv("runs", ["show", run_dir.name, str(run_dir.parent)], sys.executable)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    answer: Any = parse_answer("this machine", done.stdout, done.stderr)["runs"]
    if not answer:
        raise ConfigError(
            f"run {run_dir.name}",
            found=f"no plan.json in {run_dir}",
            expected="the folder of a run",
            remedy="it was removed in part; Slurm still knows the job: squeue, sacct",
        )
    exits = [_read_exit(run_dir, rank) for rank in range(int(answer[0]["nnodes"]))]
    names = read_nodes(run_dir)
    return KnownRun(run=run_dir.name, nodes=make_nodes(answer[0], job, names, exits))


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
        if found is None and state in (FINISHED, STOPPED):
            found = _silent_exit(first, rank, state)
        first_rank = rank * int(first["nproc_per_node"])
        nodes[name] = {
            **first,
            "node_rank": rank,
            "first_rank": first_rank,
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
        return NEVER_STARTED, "", None
    if job.runs:
        return RUNNING, "", None
    if ended is not None and (job.state in _ENDS or job.state == FORGOTTEN):
        return str(ended["state"]), "", ended
    if (state := _ENDS.get(job.state)) in (FINISHED, STOPPED):
        return str(state), "", None
    return LOST, f"the job ended as {job.state}: its log says more", None


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
