"""The job of a run: what Slurm is asked for, and where its nodes find their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands.slurm.job import (
    CPUS,
    GPUS,
    NODES,
    make_job,
    on_shared,
    read_environment,
    read_nodes_python,
)
from provision.errors import ConfigError
from provision.launch.code import Code
from provision.launch.environment import RunEnviron
from provision.launch.prepare import Program
from provision.launch.spec import Script
from provision.settings import make_settings
from provision.slurm.spec import RESTARTS


def test_the_environment_is_the_shared_folder_s_or_each_node_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shared = tmp_path / "home", tmp_path / "shared"
    monkeypatch.setenv("HOME", str(home))
    inner = Path(".zerofleet", "envs", "abc", "bin", "python")
    assert read_nodes_python(shared, "abc") == str(home / inner)
    assert read_nodes_python(home, "abc") == str(home / inner)
    (shared / inner).parent.mkdir(parents=True)
    (shared / inner).touch()
    assert read_nodes_python(shared, "abc") == str(shared / inner)


def program(*, script: bool = False) -> Program:
    return Program(
        code=Code(files=(), archive=b""),
        environ=RunEnviron(),
        recipe={"objective": "orpo"},
        script=Script(path="t.py") if script else None,
    )


def test_a_job_is_named_for_its_run_and_goes_on_if_its_program_can() -> None:
    job = make_job(make_settings({}, {}, Path("/")), program())
    assert (job.nodes, job.gpus, job.cpus_per_task) == (NODES, int(GPUS), CPUS)
    assert (job.job_name, job.restarts) == ("zerofleet-orpo", RESTARTS)
    assert make_job(make_settings({}, {}, Path("/")), program(script=True)).restarts == 0
    asked = make_settings({}, {"restarts": "3", "no_preflight": True}, Path("/"))
    assert make_job(asked, program(script=True)).restarts == 3
    assert make_job(asked, program()).preflight is False


def test_a_whole_node_has_all_of_its_cpus() -> None:
    whole = make_settings({}, {"exclusive": True}, Path("/"))
    assert make_job(whole, program()).cpus_per_task is None
    some = make_settings({}, {"exclusive": True, "cpus_per_task": "4"}, Path("/"))
    assert make_job(some, program()).cpus_per_task == 4


def test_no_stage_can_be_chosen_for_nodes_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="--zero: found auto, expected 1, 2 or 3"):
        on_shared(make_settings({}, {"zero": "auto"}, Path("/")))
    assert on_shared(make_settings({}, {"zero": "3"}, Path("/"))).zero == 3


def test_a_python_of_the_users_own_is_not_guessed_at() -> None:
    with pytest.raises(ConfigError, match="--accelerator: found nothing"):
        read_environment(make_settings({}, {"python": "/p"}, Path("/")), Path("/shared"))
    s = make_settings({}, {"python": "/p", "accelerator": "cpu"}, Path("/"))
    assert read_environment(s, Path("/shared")) == ("/p", "cpu")
