"""What --slurm means to a command: a job, nodes in place of hosts over SSH, or neither."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from provision.commands.connect import connected_fleet
from provision.commands.flags import FLEET, LIMITS, LOCK, NODES, SLURM
from provision.errors import ConfigError
from provision.settings import Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.fleet import Fleet

#: Flags of train that need hosts one can reach before they are chosen.
_OVER_SSH = (
    *FLEET, *LOCK, *LIMITS, "master_addr", "include", "exclude", "nproc", "print_commands",
    "detach", "retries", "retry_within", "resume", "runs",
)  # fmt: skip


def apply_job(out: Answer, s: Settings) -> None:
    """The job of ``slurm``, and of ``train --slurm``, which submits it."""
    from provision.commands.slurm.job import apply_slurm

    apply_slurm(out, s)


def wants_slurm(s: Settings) -> bool:
    """Whether train is to submit a job; ConfigError for flags that mean nothing to it then."""
    as_job = s.slurm is not None
    if as_job and s.slurm is not True:
        raise ConfigError(
            "train --slurm",
            found=s.slurm,
            expected="no value",
            remedy=f"name a partition with --partition, as in --slurm --partition {s.slurm}",
        )
    foreign = _OVER_SSH if as_job else (*SLURM, "python", "accelerator")
    if other := [flag for flag in foreign if flag in s.given]:
        flag = f"--{other[0].replace('_', '-')}"
        if not as_job:
            raise _needs_slurm(flag)
        raise ConfigError(
            flag,
            found="--slurm beside it",
            expected="one of the two, as it is for runs over SSH",
            remedy=f"leave {flag} out",
        )
    return as_job


def wants_nodes(s: Settings) -> bool:
    """Whether a command is about Slurm's nodes; ConfigError for flags that contradict that."""
    job = s.slurm if isinstance(s.slurm, str) and s.slurm.isdecimal() else ""
    sizes = [flag for flag in NODES if flag not in ("slurm", "shared")]
    foreign = ["hosts", "ssh_config", "accept_new"] if s.slurm else list(NODES)
    if other := [flag for flag in foreign + (sizes if job else []) if flag in s.given]:
        flag = f"--{other[0].replace('_', '-')}"
        if not s.slurm:
            raise _needs_slurm(flag)
        raise ConfigError(
            flag,
            found=f"--slurm {'' if s.slurm is True else s.slurm}".rstrip() + " beside it",
            expected="one of the two",
            remedy=f"leave {flag} out" + (f": job {job} has its nodes" if job else ""),
        )
    return bool(s.slurm)


def _needs_slurm(flag: str) -> ConfigError:
    return ConfigError(
        flag,
        found="no --slurm beside it",
        expected="--slurm, as it is about Slurm's nodes",
        remedy=f"add --slurm, or leave {flag} out",
    )


def connected_hosts(out: Answer, s: Settings) -> AbstractContextManager[Fleet]:
    """The hosts of the hosts file over SSH or, with --slurm, nodes through srun."""
    if not wants_nodes(s):
        return connected_fleet(s)
    from provision.commands.slurm.nodes import connected_slurm

    return connected_slurm(out, s)


def connected_homes(out: Answer, s: Settings) -> AbstractContextManager[Fleet]:
    """The hosts of the hosts file or, with --slurm, one node for each home that nodes have."""
    if not wants_nodes(s):
        return connected_fleet(s)
    from provision.commands.slurm.nodes import connected_slurm_homes

    return connected_slurm_homes(out, s)


def deploy_to_nodes(out: Answer, s: Settings) -> None:
    """What ``deploy --slurm`` does."""
    from provision.commands.slurm.nodes import apply_slurm_deploy

    apply_slurm_deploy(out, s)


def apply_nodes(out: Answer, s: Settings) -> None:
    """The nodes of a Slurm job or partition, as a hosts file."""
    from provision.slurm.nodes import read_slurm_nodes

    if s.slurm is True:
        raise ConfigError(
            "hosts --slurm",
            found="no value",
            expected="a job's number, or a partition",
            remedy="name one, as in --slurm debug; `sinfo -s` lists the partitions",
        )
    nodes = read_slurm_nodes(str(s.slurm))
    out.add(nodes=[node.as_json() for node in nodes])
    out.text("\n".join(node.line() for node in nodes))
