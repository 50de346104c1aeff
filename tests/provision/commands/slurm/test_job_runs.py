"""Which Slurm run is meant, how it is listed and stopped, and what resume refuses."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from provision import errors
from provision.commands.runs.tasks import TASKS
from provision.commands.slurm.find import read_slurm_run
from provision.commands.slurm.listing import read_listed, row
from provision.commands.slurm.resume import apply_resumed, read_step
from provision.commands.slurm.stop import apply_stop, plan_stop
from provision.errors import ConfigError
from provision.setting_table import DEFAULTS
from provision.settings import Settings, make_settings
from provision.show import Answer
from provision.slurm.jobs import SlurmJob
from provision.slurm.read import read_run

PLAN = Path(__file__).parents[3] / "facts" / "slurm" / "plan.json"
RUN = json.loads(PLAN.read_text())["run"]
WAITS = SlurmJob(job="12", state="PENDING", reason="Resources")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with one run of a Slurm job, of a trainer on two nodes."""
    folder = tmp_path / ".zerofleet" / "runs" / RUN
    (folder / "output" / "checkpoint-5").mkdir(parents=True)
    shutil.copy(PLAN, folder)
    (folder / "job.sbatch").write_text("#!/bin/bash\nexport ZEROFLEET_PAUSE_FILE=x\n")
    record = {"job": "12", "run": RUN, "submitted_at": 1.0}
    (folder / "slurm.json").write_text(json.dumps(record))
    return tmp_path


def settings(shared: Path, **flags: Any) -> Settings:
    return make_settings({}, {"shared": str(shared), **flags}, shared)


def test_a_run_is_named_by_its_job_and_last_is_sshs_where_there_are_hosts(shared: Path) -> None:
    folder = shared / ".zerofleet" / "runs" / RUN
    assert read_slurm_run(settings(shared, run="12")) == folder
    assert read_slurm_run(settings(shared, run="last")) == folder
    with pytest.raises(ConfigError, match="run 13: found no hosts file "):
        read_slurm_run(settings(shared, run="13"))
    (shared / "hosts.txt").write_text("node1\n")
    assert read_slurm_run(settings(shared, run="3f9c")) == folder
    assert read_slurm_run(settings(shared, run="last")) is None
    assert read_slurm_run(settings(shared, run="13")) is None


def test_where_slurm_is_not_its_runs_are_listed_as_unknown(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sh", "python3"):  # what a script on this machine takes
        (shared / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(shared))
    out = Answer(json=True)
    ((run, job),) = read_listed(out, settings(shared))
    assert (run.run, run.state, job.job) == (RUN, "unknown", "12")
    assert out.exit == errors.FINDINGS
    assert "warning: Slurm can't be asked about its jobs: squeue: found no such" in (
        capsys.readouterr().err
    )


def test_a_job_in_a_line_as_a_run_over_ssh(shared: Path) -> None:
    run = read_run(shared / ".zerofleet" / "runs" / RUN, WAITS)
    assert row(run, WAITS, 0.0)[:2] == (RUN, "waits: Resources")
    assert row(run, WAITS, 0.0)[-1] == "(Slurm job 12)"
    job = SlurmJob(job="12", state="RUNNING", nodes="node[1-2]")
    running = read_run(shared / ".zerofleet" / "runs" / RUN, job)
    assert row(running, job, 0.0)[1] == "running"
    assert row(running, job, 0.0)[-1] == "node0, node1 (Slurm job 12)"


def test_what_stop_shows_is_what_it_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / ".zerofleet" / "runs" / RUN
    (step,) = plan_stop(folder, WAITS).phases[0].steps
    assert step.action == "scancel 12"
    assert plan_stop(folder, replace(WAITS, state="CANCELLED")).empty
    state = tmp_path / "state"
    state.write_text("PENDING")
    does = {
        "scontrol": f'echo "JobId=12 JobState=$(cat {state}) Reason=None NodeList=(null)"',
        "scancel": f"echo CANCELLED >{state}",
    }
    for name, line in does.items():
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $*" >>{tmp_path}/asked\n{line}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = Answer(json=True)
    apply_stop(out, folder)
    assert f"{tmp_path}/{step.action}" in (tmp_path / "asked").read_text().splitlines()
    assert (out.exit, out.values["state"]) == (errors.OK, "stopped")


def test_resume_takes_no_flags_of_ssh_and_no_file_that_begins_anew(shared: Path) -> None:
    folder = shared / ".zerofleet" / "runs" / RUN
    with pytest.raises(ConfigError, match="--retries: found the run of a Slurm job, whose"):
        apply_resumed(Answer(json=True), settings(shared, retries="2"), folder)
    ended = read_run(folder, SlurmJob(job="12", state="CANCELLED"))
    (folder / "job.sbatch").write_text("#!/bin/bash\n")
    with pytest.raises(ConfigError, match="always starts from the beginning"):
        read_step(ended, folder)


def test_resume_says_which_checkpoint_it_goes_on_from(shared: Path) -> None:
    folder = shared / ".zerofleet" / "runs" / RUN
    ended = read_run(folder, SlurmJob(job="12", state="CANCELLED"))
    checkpoint = {
        "step": 3,
        "save": "a",
        "world_size": 4,
        "ranks": [0, 1, 2, 3],
        "zero_stage": 2,
        "files": {},
    }
    (folder / "output" / "checkpoint-3").mkdir()
    (folder / "output" / "checkpoint-3" / "checkpoint.json").write_text(json.dumps(checkpoint))
    step, said = read_step(ended, folder)
    assert step == 3
    assert said[0].startswith("checkpoint-5 passed over: node0: no checkpoint.json")
    assert said[1] == "going on from step 3"
    (folder / "output" / "checkpoint-3" / "checkpoint.json").unlink()
    with pytest.raises(errors.HostError, match="no checkpoint that is whole on all hosts"):
        read_step(ended, folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("status", '"nodes": {"node0"'),
        ("logs", '"job_log"'),
        ("attach", '"optimizer"'),
        ("stop", "(Slurm job 12): nothing to do"),
        ("collect", '"not_collected"'),
        ("resume", f'"what": "resume {RUN}"'),
    ],
)
def test_a_command_does_with_a_job_what_its_name_says(
    name: str,
    says: str,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scontrol = shared / "scontrol"
    scontrol.write_text("#!/bin/sh\necho JobId=12 JobState=CANCELLED Reason=None NodeList=n1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shared}:{os.environ['PATH']}")
    monkeypatch.chdir(shared)
    command = next(task for task in TASKS if task.name == name)
    flags = dict.fromkeys(arg.attr_name or arg.name for arg in command.get_arguments())
    flags |= {"run": "12", "shared": str(shared), "json": True}
    with suppress(SystemExit):  # there is no checkpoint to resume from
        command(Context(Config({"zerofleet": DEFAULTS})), **flags)
    assert says in "".join(capsys.readouterr())
