"""A fine-tune as a Slurm job: through its time limit, beside another on the same nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.slurm.conftest import Desk, Job

STEPS = 12
#: The demo's flags, with which the tiny model's loss falls clearly.
FLAGS = {
    "max_steps": STEPS,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": "false",
    "model_max_length": 128,
}
SAME_NODES = "--sbatch=--nodelist=node1,node2"


@pytest.fixture
def alone(desk: Desk) -> Iterator[Desk]:
    """The desk; no job is left after the test."""
    yield desk
    desk.slurm.say("scancel", "--user=root")
    desk.slurm.mend()


def submit(desk: Desk, *words: str, environ: Mapping[str, str] | None = None) -> Job:
    """An SFT with ZeRO-2 on two nodes."""
    flags = [f"--set={name}={value}" for name, value in FLAGS.items()]
    return desk.submit(*desk.training, SAME_NODES, *flags, *words, environ=environ)


def submit_cut(desk: Desk) -> Job:
    """One that its time limit cuts in two, and that gets more time after that.

    Slurm looks at time limits twice a minute, and sends the signal up to half a minute early: here
    10 to 40 s after the job's start, when its shell is there to hear it. So that this is before the
    last step on any machine, both of the first attempt's srun (the checks, the ranks) wait before
    they begin.
    """
    slow = desk.folder / "slow.sh"
    slow.write_text('#!/bin/sh\n[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 20\n')
    slow.chmod(0o755)
    job = submit(desk, "--time=2", "--lead=80", environ={"SLURM_TASK_PROLOG": str(slow)})
    job.restarted(500)
    desk.slurm.say("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")
    return job


def losses(job: Job) -> dict[int, float]:
    """Loss by step; no step was trained twice."""
    steps = job.events()["step"]
    assert [one["step"] for one in steps] == list(range(1, STEPS + 1))
    return {one["step"]: one["loss"] for one in steps}


def port(job: Job) -> str:
    """Where its ranks met."""
    (found,) = set(re.findall(r"meeting at node1:(\d+)", job.log()))
    return str(found)


def test_a_time_limit_is_survived_beside_another_job_on_the_same_nodes(alone: Desk) -> None:
    other = alone.script("wait", SAME_NODES, "--gpus=1")
    cut = submit_cut(alone)
    assert cut.ended(500) == "COMPLETED", cut.said()
    assert other.shown()["JobState"] == "RUNNING"
    assert cut.nodes() == other.nodes() == ["node1", "node2"]
    assert port(cut) != port(other)

    begun, resumed = cut.events()["begin"]
    assert (begun["world_size"], begun["zero_stage"], begun["first_step"]) == (4, 2, 0)
    (paused,) = cut.events()["paused"]
    assert resumed["first_step"] == paused["step"]
    assert f"saved: step {paused['step']}; back into the queue" in cut.log()
    assert losses(cut)[STEPS] < losses(cut)[1] - 0.3
    assert (cut.run_dir / "output" / "adapter_model.safetensors").is_file()
    assert "end" in cut.events()


def test_losses_go_on_as_if_nothing_had_been(alone: Desk) -> None:
    whole = submit(alone)
    cut = submit_cut(alone)
    assert (whole.ended(500), cut.ended(500)) == ("COMPLETED", "COMPLETED"), cut.said()
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-4)
