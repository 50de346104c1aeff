"""Nodes for one command: what is asked of Slurm, and what its steps inherit."""

from __future__ import annotations

import sys
from pathlib import Path

from provision.slurm.allocation import salloc_argv, step_environ
from provision.slurm.spec import parse_slurm_spec

ASKED = {"nodes": 2, "gpus": "a100:4", "time": "1:00:00", "job_name": "zerofleet", "lead": 1}


def test_nodes_are_asked_for_as_a_job_file_would() -> None:
    job = parse_slurm_spec(**ASKED, partition="debug", account="lab", more=("--reservation=x",))
    assert salloc_argv(job, gpus=True) == (
        "salloc", "--job-name=zerofleet", "--partition=debug", "--account=lab", "--nodes=2",
        "--ntasks-per-node=1", "--gres=gpu:a100:4", "--time=1:00:00", "--no-kill",
        "--reservation=x",
    )  # fmt: skip


def test_gpus_are_asked_for_only_where_they_are_needed() -> None:
    argv = salloc_argv(parse_slurm_spec(**ASKED, exclusive=True), gpus=False)
    assert not [word for word in argv if "gres" in word]
    assert "--exclusive" in argv


def test_steps_inherit_the_user_s_environment_without_this_command_s_own() -> None:
    environ = {
        "HOME": "/home/me", "USER": "me", "SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "4", "PYTHONPATH": "/x", "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin:/usr/bin", "MODULEPATH": "/sw",
    }  # fmt: skip
    kept = {"USER": "me", "SLURM_CONF": "/etc/slurm.conf", "PATH": "/usr/bin", "MODULEPATH": "/sw"}
    assert step_environ(environ, None) == {**kept, "HOME": "/home/me"}
    assert step_environ(environ, Path("/scratch/me")) == {**kept, "HOME": "/scratch/me"}
