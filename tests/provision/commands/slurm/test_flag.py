"""Flags that belong together: train's over SSH, and those of a Slurm job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.slurm.flag import wants_nodes, wants_slurm
from provision.commands.slurm.nodes import make_nodes_spec
from provision.errors import ConfigError
from provision.settings import Settings, make_settings


def settings(**flags: Any) -> Settings:
    return make_settings({}, flags, Path("/here"))


def test_train_is_a_job_where_it_says_so() -> None:
    assert wants_slurm(settings(slurm=True, partition="debug"))
    assert not wants_slurm(settings(zero="3"))


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"slurm": True, "include": "node1"}, "--include"),
        ({"slurm": True, "retries": "2"}, "--retries"),
        ({"partition": "debug"}, "--partition"),
        ({"no_preflight": True}, "--no-preflight"),
        ({"slurm": "debug"}, "train --slurm"),
    ],
)
def test_a_flag_that_would_mean_nothing_is_refused(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as refused:
        wants_slurm(settings(**flags))
    assert refused.value.what == what


def test_deploy_and_parity_are_about_nodes_where_they_say_so() -> None:
    assert wants_nodes(settings(slurm="debug", nodes="4", shared="/scratch"))
    assert wants_nodes(settings(slurm=True))
    assert wants_nodes(settings(slurm="17", shared="/scratch"))
    assert not wants_nodes(settings(hosts="hosts.txt"))


@pytest.mark.parametrize(
    ("flags", "what", "remedy"),
    [
        ({"slurm": "debug", "hosts": "hosts.txt"}, "--hosts", "leave --hosts out"),
        ({"slurm": "17", "nodes": "2"}, "--nodes", "leave --nodes out: job 17 has its nodes"),
        ({"shared": "/scratch"}, "--shared", "add --slurm, or leave --shared out"),
        ({"time": "10"}, "--time", "add --slurm, or leave --time out"),
    ],
)
def test_a_flag_of_nodes_and_one_of_hosts_are_refused_together(
    flags: dict[str, Any], what: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        wants_nodes(settings(**flags))
    assert (refused.value.what, refused.value.remedy) == (what, remedy)


def test_nodes_are_had_for_minutes_whatever_the_time_of_jobs_is() -> None:
    job = make_nodes_spec(settings(slurm="debug", nodes="4", account="lab", mem="8G"))
    assert (job.partition, job.nodes, job.account, job.mem) == ("debug", 4, "lab", "8G")
    assert (job.time, job.job_name, job.cpus_per_task) == ("1:00:00", "zerofleet", None)
    assert make_nodes_spec(settings(slurm=True, partition="a", time="5")).partition == "a"
    assert make_nodes_spec(settings(slurm=True, time="5")).time == "5"
