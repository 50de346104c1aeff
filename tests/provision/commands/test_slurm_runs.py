"""Which Slurm run is meant, how it is listed and stopped, and what resume refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.slurm_results import apply_resumed, read_step
from provision.commands.slurm_runs import apply_stop, plan_stop, read_listed, read_slurm_run, row
from provision.errors import ConfigError
from provision.settings import Settings, make_settings
from provision.show import Answer
from provision.slurm.jobs import SlurmJob
from provision.slurm.read import read_run

RUN = "20261121-083012-sft-3f9c"
WAITS = SlurmJob(job="12", state="PENDING", reason="Resources")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with one run of a Slurm job, of a trainer on two nodes."""
    folder = tmp_path / ".zerofleet" / "runs" / RUN
    (folder / "output" / "checkpoint-5").mkdir(parents=True)
    plan = {
        "run": RUN,
        "node_rank": 0,
        "nnodes": 2,
        "nproc_per_node": 2,
        "first_rank": 0,
        "argv": ["python", "-m", "torch.distributed.run", "-m", "trainer.sft"],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
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
    with pytest.raises(ConfigError, match="run 13: found no such run of a Slurm job below"):
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
    assert "warning: Slurm can't be asked of its jobs: squeue: found no such" in (
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
    with pytest.raises(ConfigError, match="--retries: found it, with the run of a Slurm job"):
        apply_resumed(Answer(json=True), settings(shared, retries="2"), folder)
    ended = read_run(folder, SlurmJob(job="12", state="CANCELLED"))
    (folder / "job.sbatch").write_text("#!/bin/bash\n")
    with pytest.raises(ConfigError, match="always begins anew"):
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
