"""A fine-tune as a Slurm job: through its time limit, beside another on the same nodes."""

from __future__ import annotations

import re
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


def submit(desk: Desk, *words: str) -> Job:
    """An SFT with ZeRO-2 on two nodes, always the same two."""
    flags = [f"--set={name}={value}" for name, value in FLAGS.items()]
    return desk.submit(*desk.training, "--sbatch=--nodelist=node1,node2", *flags, *words)


def losses(job: Job) -> dict[int, float]:
    """Loss by step; no step was trained twice."""
    steps = job.events()["step"]
    assert [one["step"] for one in steps] == list(range(1, STEPS + 1))
    return {one["step"]: one["loss"] for one in steps}


def test_a_time_limit_is_survived_beside_another_job_on_the_same_nodes(desk: Desk) -> None:
    whole = submit(desk)
    # Slurm sends the signal up to a minute early: here before the first step, on any machine.
    cut = submit(desk, "--time=2", "--lead=115")
    cut.restarted()
    assert cut.shown()["TimeLimit"] == "00:02:00"
    desk.slurm.say("scontrol", "update", f"JobId={cut.number}", "TimeLimit=30")
    assert (whole.ended(), cut.ended()) == ("COMPLETED", "COMPLETED"), whole.said() + cut.said()
    assert whole.nodes() == cut.nodes() == ["node1", "node2"]
    ports = [set(re.findall(r"meeting at node1:(\d+)", job.log())) for job in (whole, cut)]
    assert len(ports[0] | ports[1]) == 2

    (begin,), (resumed, *_) = whole.events()["begin"], cut.events()["begin"][1:]
    assert (begin["world_size"], begin["zero_stage"], begin["first_step"]) == (4, 2, 0)
    (paused,) = cut.events()["paused"]
    assert resumed["first_step"] == paused["step"]
    assert f"saved: step {paused['step']}; back into the queue" in cut.log()
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-4)
    assert losses(whole)[STEPS] < losses(whole)[1] - 0.3
    for job in (whole, cut):
        assert (job.run_dir / "output" / "adapter_model.safetensors").is_file()
        assert "end" in job.events()
