"""Which checkpoint is gone on from, and what the run that goes on is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError, HostError
from provision.launch.nodes import trainer_argv
from provision.launch.resume import choose_checkpoint, parse_trainer_argv, plan_resume
from provision.launch.runs import KnownRun
from provision.settings import make_settings

RANKS = {"node1": [0, 1], "node2": [2, 3]}
FLAGS = {
    "model_name_or_path": "/home/ml/m",
    "train_file_dir": "/home/ml/a.jsonl,/data/b.jsonl",
    "output_dir": "/home/ml/.zerofleet/runs/r/output",
    "deepspeed": "/home/ml/.zerofleet/runs/r/code/zero_configs/zero3_offload.json",
    "max_steps": 10,
    "use_peft": True,
    "learning_rate": -1.5,
    "betas": [0.9, 0.95],
}


def saved(ranks: list[int], save: str = "s", world_size: int = 4) -> dict[str, Any]:
    return {"step": 4, "save": save, "world_size": world_size, "ranks": ranks, "zero_stage": 2}


def held(checkpoints: dict[str, Any], torn: dict[str, str] | None = None) -> dict[str, Any]:
    return {"checkpoints": checkpoints, "torn": torn or {}}


def test_the_newest_that_is_whole_on_all_hosts() -> None:
    answers = {
        "node1": held({"4": saved([0, 1]), "8": saved([0, 1]), "12": saved([0, 1])}),
        "node2": held({"4": saved([2, 3]), "8": saved([2, 3])}, {"12": "latest is missing"}),
    }
    assert choose_checkpoint(answers, RANKS) == (8, {12: "node2: latest is missing"})


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (held({}), "node2: it is not there"),
        (held({"4": saved([2])}), "node2: it has no part of rank 3"),
        (held({"4": saved([0, 1])}), "node2: it has no part of rank 2, 3"),
        (held({"4": saved([2, 3], save="t")}), "node1 and node2 hold different saves of it"),
        (held({"4": saved([2, 3], world_size=8)}), "node2: saved by 8 ranks, and these are 4"),
    ],
)
def test_what_is_not_whole(other: dict[str, Any], why: str) -> None:
    answers = {"node1": held({"4": saved([0, 1])}), "node2": other}
    assert choose_checkpoint(answers, RANKS) == (None, {4: why})


@pytest.mark.parametrize("launcher", [["-m", "torch.distributed.run", "--tee", "3", "-m"],
                                      ["-m", "deepspeed.launcher.launch", "--module"]])  # fmt: skip
def test_flags_are_read_back_as_they_were_written(launcher: list[str]) -> None:
    argv = ["python", *launcher, "trainer.orpo", *trainer_argv(FLAGS)]
    objective, flags = parse_trainer_argv(argv)
    assert objective == "orpo"
    assert trainer_argv(flags) == trainer_argv(FLAGS)


def run_of(state: str = "failed", **more: Any) -> KnownRun:
    argv = ["p", "-m", "torch.distributed.run", "-m", "trainer.sft", *trainer_argv(FLAGS)]
    nodes = {
        f"node{n + 1}": {
            "run": "r", "node_rank": n, "nnodes": 2, "nproc_per_node": 2, "first_rank": 2 * n,
            "state": state, "exit": None, "why": "gone" if state != "running" else "",
            "argv": argv, "output": FLAGS["output_dir"],
            "run_dir": "/home/ml/.zerofleet/runs/r", "stop_asked_at": None, **more,
        }
        for n in (0, 1)
    }  # fmt: skip
    return KnownRun(run="r", nodes=nodes)


WHOLE = {"node1": held({"4": saved([0, 1])}), "node2": held({"4": saved([2, 3])})}
SETTINGS = make_settings({"set": {"max_steps": 99}, "model": "/other"}, {}, Path("/"))


def test_the_run_goes_on_as_it_was_and_not_as_the_settings_are_now() -> None:
    resume = plan_resume(run_of(), WHOLE, SETTINGS)
    assert resume.lines() == ("going on from step 4",)
    s = resume.settings
    assert (s.model, s.data, s.output) == ("~/m", "~/a.jsonl,/data/b.jsonl", None)
    assert (s.zero, s.offload, s.set) == (3, "all", {})
    assert (s.include, s.nproc) == ("node1@node2", 2)  # whoever else is in the hosts file
    assert resume.recipe == {
        "objective": "sft",
        "max_steps": "10",
        "use_peft": "true",
        "learning_rate": "-1.5",
        "betas": ["0.9", "0.95"],
        "resume_from_checkpoint": "~/.zerofleet/runs/r/output/checkpoint-4",
    }


def test_hosts_that_were_named_for_this_command_are_taken() -> None:
    named = make_settings({}, {"include": "node1:0,2@node2"}, Path("/"))
    s = plan_resume(run_of(), WHOLE, named).settings
    assert (s.include, s.nproc) == ("node1:0,2@node2", None)


def test_a_run_without_any_checkpoint_begins_anew() -> None:
    resume = plan_resume(run_of(), {"node1": held({}), "node2": held({})}, SETTINGS)
    assert resume.lines() == ("no checkpoint was made: beginning anew",)
    assert "resume_from_checkpoint" not in resume.recipe


def test_what_cannot_go_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="it runs on node1, node2"):
        plan_resume(run_of("running"), WHOLE, SETTINGS)
    with pytest.raises(ConfigError, match="1 of its 3 hosts did not tell of it"):
        plan_resume(run_of(nnodes=3), WHOLE, SETTINGS)
    gone = {"node1": WHOLE["node1"], "node2": held({})}
    with pytest.raises(HostError, match="of step 4, node2: it is not there"):
        plan_resume(run_of(), gone, SETTINGS)
    with pytest.raises(ConfigError, match="a script of your own"):
        plan_resume(run_of(argv=["p", "-m", "torch.distributed.run", "t.py"]), WHOLE, SETTINGS)
