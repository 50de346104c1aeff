"""Nodes for one command: an allocation of its own, or those of a job that runs.

salloc gives an allocation back when the command that it was given ends. That command reads from
this process: so the nodes are given back however this process ends.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError, HostError
from provision.session import Say
from provision.slurm.jobs import read_job
from provision.slurm.nodes import SlurmNode, read_slurm_nodes
from provision.slurm.spec import SlurmSpec
from provision.slurm.submit import refusal
from provision.slurm.waiting import never_starts, read_reason
from provision.talk import ProcessChannel

#: What salloc runs on this machine: it says which job it is, and ends when its stdin does.
_HOLD = ("sh", "-c", 'echo "$SLURM_JOB_ID"; exec cat >/dev/null')
_PENDING = re.compile(r"Pending job allocation (\d+)")
#: Seconds between two looks at why the job waits, and that salloc may take to give it back.
_LOOK, _PATIENCE, _POLL = 10.0, 10.0, 0.2


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Nodes on which steps can be started. ``environ``: of srun, and so of what it starts."""

    job: str
    nodes: tuple[SlurmNode, ...]
    environ: Mapping[str, str]


def salloc_argv(job: SlurmSpec, *, gpus: bool) -> tuple[str, ...]:
    """What asks Slurm for nodes, as a job file of this SlurmSpec would. Pure.

    ``gpus``: where devices are confined to jobs, a node without one looks as if it had none.
    """
    given = [f"--{name}={value}" for name, value in job.options(gpus=gpus).items()]
    # --no-kill: a node that is lost does not take the others with it.
    whole = ["--exclusive"] if job.exclusive else []
    return ("salloc", *given, *whole, "--no-kill", *job.more)


def step_environ(environ: Mapping[str, str], home: Path | None) -> dict[str, str]:
    """The environment of salloc and srun, which nodes inherit, as Slurm's jobs do. Pure.

    Without what says that this process is in a job itself, and without this command's own Python.
    ``home`` takes the part of HOME.
    """
    own = str(Path(sys.prefix, "bin"))
    foreign = ("SLURM_", "SRUN_", "PYTHON", "VIRTUAL_ENV")
    left = {k: v for k, v in environ.items() if k == "SLURM_CONF" or not k.startswith(foreign)}
    left["PATH"] = ":".join(part for part in left.get("PATH", "").split(":") if part != own)
    return left | ({"HOME": str(home)} if home else {})


@contextmanager
def apply_allocation(
    argv: Sequence[str], environ: Mapping[str, str], say: Say, wait: float | None
) -> Iterator[Allocation]:
    """Have nodes for the length of the block.

    ``wait``: seconds to wait for them; None: as long as Slurm takes, but not for what it will never
    give.

    Raises:
        ConfigError: Slurm refuses, with its words, or would let it wait for ever.
        HostError: it still waits.
    """
    if shutil.which(argv[0], path=environ.get("PATH")) is None:
        raise ConfigError(
            argv[0],
            found="no such command on this machine",
            expected="Slurm's commands",
            remedy="stand on a login node of the cluster",
        )
    channel = ProcessChannel([*argv, *_HOLD], environ=environ, patience=_PATIENCE)
    try:
        job = _await_grant(channel, say, wait)
        nodes = read_slurm_nodes(job)
        say(f"Slurm job {job}: {', '.join(node.name for node in nodes)}, until this command ends")
        yield Allocation(job=job, nodes=nodes, environ=environ)
    except BaseException:
        channel.process.terminate()  # salloc takes back what waits, too
        raise
    finally:
        channel.close()


def _await_grant(channel: ProcessChannel, say: Say, wait: float | None) -> str:
    """The job's number, once it has its nodes."""
    began = looked = time.monotonic()
    out, errors, told = b"", "", ""
    while b"\n" not in out:
        channel.settimeout(_POLL)
        try:
            part = channel.recv(1 << 10)
        except TimeoutError:
            part = None
        if part == b"":
            while channel.recv_stderr_ready():
                errors += channel.recv_stderr(1 << 16).decode(errors="replace")
            raise refusal(errors, channel.process.wait(), "salloc")
        out += part or b""
        errors += channel.recv_stderr(1 << 16).decode(errors="replace")
        pending, now = _PENDING.search(errors), time.monotonic()
        if part is None and pending and (not told or now - looked > _LOOK):
            reason, looked = read_reason(pending[1]), now
            if error := never_starts(reason, "salloc"):
                raise error
            told = reason or told or "no reason given"
            say(f"Slurm job {pending[1]} waits for its nodes: {told}, {now - began:.0f} s so far")
        if wait is not None and now - began > wait:
            raise HostError(
                "Slurm: allocation",
                found=f"it still waits after {wait:.0f} s ({told or 'no reason given yet'})",
                expected="nodes",
                remedy="give it longer (--wait), ask for less, or use a job that runs: --slurm JOB",
            )
    return out.decode().strip()


def read_allocation(job: str, environ: Mapping[str, str]) -> Allocation:
    """The nodes of a job of ours that runs; ConfigError, with its state, where it does not."""
    found = read_job(job)
    if found.state != "RUNNING":
        raise ConfigError(
            f"--slurm {job}",
            found=str(found),
            expected="a job that runs",
            remedy="name a partition to have nodes for this command alone",
        )
    return Allocation(job=job, nodes=read_slurm_nodes(job), environ=environ)
