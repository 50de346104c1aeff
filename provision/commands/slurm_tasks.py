"""``invoke slurm``: the run that train would start over SSH, as a Slurm job."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from provision.commands.flags import FLEET, LIMITS, LOCK, NODES, SLURM, TRAIN, WHEEL, command
from provision.commands.reach import connected_fleet
from provision.errors import ConfigError
from provision.settings import Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.fleet import Fleet

#: Flags of train that need hosts one can reach before they are chosen.
_OVER_SSH = (
    *FLEET, *LOCK, *LIMITS, "master_addr", "include", "exclude", "nproc", "print_commands",
    "detach", "retries", "resume", "runs",
)  # fmt: skip


@command(
    *TRAIN, *WHEEL, *SLURM, "model", "data", "output", "master_port", "script", "code", "env",
    "launcher", "python", "accelerator", "file", "submit", "dry_run",
)  # fmt: skip
def slurm(out: Answer, s: Settings) -> None:
    """Write a run as a Slurm job file, or submit it; --dry-run has Slurm look at it first."""
    apply_job(out, s)


def apply_job(out: Answer, s: Settings) -> None:
    """The job of ``slurm``, and of ``train --slurm``, which submits it."""
    from provision.commands.queueing import apply_slurm

    apply_slurm(out, s)


def wants_slurm(s: Settings) -> bool:
    """Whether train is to submit a job; ConfigError for flags that mean nothing to it then."""
    as_job = s.slurm is not None
    if as_job and s.slurm is not True:
        raise ConfigError(
            "train --slurm",
            found=s.slurm,
            expected="nothing behind it",
            remedy=f"a partition is named with --partition {s.slurm}",
        )
    foreign = _OVER_SSH if as_job else (*SLURM, "python", "accelerator")
    if other := [flag for flag in foreign if flag in s.given]:
        raise ConfigError(
            f"--{other[0].replace('_', '-')}",
            found="it with --slurm" if as_job else "it without --slurm",
            expected="none: Slurm chooses the hosts" if as_job else "a job of Slurm to say that of",
            remedy="leave it out" if as_job else "add --slurm, or leave it out",
        )
    return as_job


def wants_nodes(s: Settings) -> bool:
    """Whether a command is about Slurm's nodes; ConfigError for flags that contradict that."""
    job = s.slurm if isinstance(s.slurm, str) and s.slurm.isdecimal() else ""
    sizes = [flag for flag in NODES if flag not in ("slurm", "shared")]
    foreign = ["hosts", "ssh_config", "accept_new"] if s.slurm else list(NODES)
    if other := [flag for flag in foreign + (sizes if job else []) if flag in s.given]:
        raise ConfigError(
            f"--{other[0].replace('_', '-')}",
            found=f"it beside --slurm {job}".rstrip() if s.slurm else "it without --slurm",
            expected="one of the two" if s.slurm else "nodes of Slurm to ask for",
            remedy="that job has its nodes: leave it out" if job else "leave it out",
        )
    return bool(s.slurm)


def connected_hosts(out: Answer, s: Settings) -> AbstractContextManager[Fleet]:
    """The hosts of the hosts file over SSH or, with --slurm, nodes through srun."""
    if not wants_nodes(s):
        return connected_fleet(s)
    from provision.commands.slurm_nodes import connected_slurm

    return connected_slurm(out, s)


def connected_homes(out: Answer, s: Settings) -> AbstractContextManager[Fleet]:
    """The hosts of the hosts file or, with --slurm, one node for each home that nodes have."""
    if not wants_nodes(s):
        return connected_fleet(s)
    from provision.commands.slurm_nodes import connected_slurm_homes

    return connected_slurm_homes(out, s)


def deploy_to_nodes(out: Answer, s: Settings) -> None:
    """What ``deploy --slurm`` does."""
    from provision.commands.slurm_nodes import apply_slurm_deploy

    apply_slurm_deploy(out, s)


def apply_nodes(out: Answer, s: Settings) -> None:
    """The nodes of a Slurm job or partition, as a hosts file."""
    from provision.slurm.nodes import read_slurm_nodes

    if s.slurm is True:
        raise ConfigError(
            "hosts --slurm",
            found="nothing behind it",
            expected="a job's number, or a partition",
            remedy="as in --slurm debug; `sinfo -s` lists the partitions",
        )
    nodes = read_slurm_nodes(str(s.slurm))
    out.add(nodes=[node.as_json() for node in nodes])
    out.text("\n".join(node.line() for node in nodes))


#: What tasks.py adds to its own.
TASKS = (slurm,)
