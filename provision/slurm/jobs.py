"""What Slurm says of jobs: its controller while it remembers them, then its accounting."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from provision.slurm.submit import read_slurm, refusal

_WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")
_RUNS = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
#: What Slurm answers of a job that it has forgotten (MinJobAge), or never knew.
FORGOTTEN = "unknown to Slurm"
#: A job that Slurm can't be asked of, from here or now.
UNASKED = "not asked"

# https://slurm.schedmd.com/squeue.html: id, state, nodes, time used, time limit, reason
_QUEUE = "%i|%T|%N|%M|%l|%r"
# https://slurm.schedmd.com/sacct.html
_PAST = ("JobIDRaw", "State", "NodeList", "Elapsed", "Timelimit")


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


def parse_queue(text: str) -> dict[str, SlurmJob]:
    """Jobs, by their numbers, from squeue's lines. Pure."""
    found = {}
    for line in text.splitlines():
        job, state, nodes, elapsed, limit, reason = line.split("|", 5)
        found[job] = SlurmJob(
            job=job, state=state, nodes=nodes, elapsed=elapsed, limit=limit, reason=reason
        )
    return found


def parse_past(text: str) -> dict[str, SlurmJob]:
    """Jobs, by their numbers, from sacct's lines; of one that was requeued the last. Pure."""
    found = {}
    for line in text.splitlines():
        job, state, nodes, elapsed, limit = line.split("|")
        # "CANCELLED by 1000"; "None assigned" of one that never started
        nodes = "" if nodes == "None assigned" else nodes
        found[job] = SlurmJob(
            job=job, state=state.split()[0], nodes=nodes, elapsed=elapsed, limit=limit
        )
    return found


def _known(done: subprocess.CompletedProcess[str], command: str) -> bool:
    """Whether Slurm knows the job that was asked for; ConfigError if it answers anything else."""
    if done.returncode and "Invalid job id" not in done.stderr:
        raise refusal(done.stderr, done.returncode, command)
    return not done.returncode


def read_job(job: str) -> SlurmJob:
    """A job as Slurm has it now, or had it: by its controller, then by its accounting.

    Raises ConfigError if Slurm's controller can't be asked.
    """
    done = read_slurm(["scontrol", "--oneliner", "show", "job", job])
    if _known(done, "scontrol"):
        return parse_job(job, done.stdout)
    return read_past([job])[job]


def read_jobs(jobs: Sequence[str]) -> dict[str, SlurmJob]:
    """The same of many jobs, by their numbers, but for how often each was restarted."""
    if not jobs:
        return {}
    argv = ["squeue", "--noheader", "--states=all", "--jobs", ",".join(jobs)]
    done = read_slurm([*argv, f"--format={_QUEUE}"])
    found = parse_queue(done.stdout) if _known(done, "squeue") else {}
    left = [job for job in jobs if job not in found]
    return {**found, **(read_past(left) if left else {})}


def read_past(jobs: Sequence[str]) -> dict[str, SlurmJob]:
    """Jobs as Slurm's accounting has them; FORGOTTEN, and why, where there is none, or not they."""
    argv = ["sacct", "--jobs", ",".join(jobs), "--allocations", "--noheader", "--parsable2"]
    done = read_slurm([*argv, "--format", ",".join(_PAST)])
    found = parse_past(done.stdout) if done.returncode == 0 else {}
    words = done.stderr.strip().splitlines()
    unknown = SlurmJob(job="", state=FORGOTTEN, reason=words[-1] if words else "")
    return {job: found.get(job) or replace(unknown, job=job) for job in jobs}
