"""Which checkpoint is gone on from, and what the run that goes on is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError, HostError
from provision.launch.environment import RunEnviron, Variable
from provision.launch.nodes import trainer_argv
from provision.launch.resume import environ_again, own_config, parse_trainer_argv, plan_resume
from provision.launch.runs import KnownRun
from provision.settings import make_settings

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


@pytest.mark.parametrize("launcher", [["-m", "torch.distributed.run", "--tee", "3", "-m"],
                                      ["-m", "deepspeed.launcher.launch", "--module"]])  # fmt: skip
def test_flags_are_read_back_as_they_were_written(launcher: list[str]) -> None:
    argv = ["python", *launcher, "trainer.orpo", *trainer_argv(FLAGS)]
    objective, flags = parse_trainer_argv(argv)
    assert objective == "orpo"
    assert trainer_argv(flags) == trainer_argv(FLAGS)


ASKED = {
    "devices": None, "numa_binding": "node", "master_port": 29700,
    "environ": {"NCCL_DEBUG": "INFO"}, "secrets": ["WANDB_API_KEY"],
}  # fmt: skip


def run_of(state: str = "failed", **more: Any) -> KnownRun:
    argv = ["p", "-m", "torch.distributed.run", "-m", "trainer.sft", *trainer_argv(FLAGS)]
    nodes = {
        f"node{n + 1}": {
            "run": "r", "node_rank": n, "nnodes": 2, "nproc_per_node": 2, "first_rank": 2 * n,
            "state": state, "exit": None, "why": "gone" if state != "running" else "",
            "argv": argv, "output": FLAGS["output_dir"],
            "run_dir": "/home/ml/.zerofleet/runs/r", "stop_asked_at": None,
            "asked": ASKED, **more,
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
    with pytest.raises(
        HostError, match=r"of step 4, node2: it is not there.*r/output/checkpoint-4 --universal"
    ):
        plan_resume(run_of(), gone, SETTINGS)
    with pytest.raises(ConfigError, match="a script of your own"):
        plan_resume(run_of(argv=["p", "-m", "torch.distributed.run", "t.py"]), WHOLE, SETTINGS)


def with_nodes(run: KnownRun, **by_host: dict[str, Any]) -> KnownRun:
    nodes = {host: {**node, **by_host.get(host, {})} for host, node in run.nodes.items()}
    return KnownRun(run=run.run, nodes=nodes)


def test_the_very_gpus_of_each_host_are_taken_again() -> None:
    had = {"node1": {"asked": {**ASKED, "devices": [2, 3]}}}
    s = plan_resume(with_nodes(run_of(), **had), WHOLE, SETTINGS).settings
    assert (s.include, s.exclude, s.nproc) == ("node1:2,3@node2:0,1", None, None)


def test_hosts_with_more_ranks_than_others_have_as_many_again() -> None:
    more = {"node1": {"nproc_per_node": 3}, "node2": {"nproc_per_node": 1, "first_rank": 3}}
    answers = {"node1": held({"4": saved([0, 1, 2])}), "node2": held({"4": saved([3])})}
    resume = plan_resume(with_nodes(run_of(), **more), answers, SETTINGS)
    assert (resume.settings.include, resume.settings.nproc) == ("node1:0,1,2@node2:0", None)
    assert resume.step == 4


def test_an_exclude_of_invoke_yaml_does_not_contradict_the_runs_own_hosts() -> None:
    excluding = make_settings({"exclude": "node3"}, {}, Path("/"))
    s = plan_resume(run_of(), WHOLE, excluding).settings
    assert (s.include, s.exclude) == ("node1@node2", None)


def test_launcher_binding_port_and_limits_are_the_runs() -> None:
    argv = ["p", "-m", "deepspeed.launcher.launch", "--module", "trainer.sft"]
    limits = {"grace": 40.0, "failure_grace": 9.0, "lost_after": 7.0, "start_within": 300.0}
    run = run_of(argv=[*argv, *trainer_argv(FLAGS)], limits=limits)
    s = plan_resume(run, WHOLE, SETTINGS).settings
    assert (s.launcher, s.numa_binding, s.master_port) == ("deepspeed", "node", 29700)
    assert (s.grace, s.grace_after_failure, s.lost_after, s.start_within) == (40, 9, 7, 300)
    named = make_settings({}, {"grace": "60", "master_port": "29800"}, Path("/"))
    s = plan_resume(run, WHOLE, named).settings
    assert (s.grace, s.grace_after_failure, s.master_port) == (60, 9, 29800)


def test_its_environment_goes_with_it_and_its_secrets_are_asked_for_by_name() -> None:
    resume = plan_resume(run_of(), WHOLE, SETTINGS)
    assert resume.lines() == ("going on from step 4",)

    def here(**values: str) -> RunEnviron:
        found = (Variable(name=n, value=v, origin="this shell") for n, v in values.items())
        return RunEnviron(variables=tuple(found))

    with pytest.raises(ConfigError, match=r"no WANDB_API_KEY in .*: export WANDB"):
        environ_again(resume, here(NCCL_DEBUG="WARN"), ())
    shell = here(WANDB_API_KEY="s", NCCL_DEBUG="WARN", NCCL_ALGO="Ring")
    again = environ_again(resume, shell, ())
    assert (again.plain, again.secret) == ({"NCCL_DEBUG": "INFO"}, {"WANDB_API_KEY": "s"})
    assert environ_again(resume, shell, ("NCCL_DEBUG",)).plain == {"NCCL_DEBUG": "WARN"}


def test_a_plan_that_does_not_tell_its_environment_is_said() -> None:
    assert "older release" in plan_resume(run_of(asked={}), WHOLE, SETTINGS).lines()[0]


def test_a_configuration_of_the_users_own_is_taken_again(tmp_path: Path) -> None:
    own = "/home/ml/.zerofleet/runs/r/code/zero_configs/own.json"
    flags = trainer_argv({**FLAGS, "deepspeed": own})
    run = run_of(argv=["p", "-m", "torch.distributed.run", "-m", "trainer.sft", *flags])
    assert (own_config(run), own_config(run_of())) == (own, None)
    assert plan_resume(run, WHOLE, SETTINGS, tmp_path).settings.deepspeed == tmp_path
    ours = make_settings({"deepspeed": "other.json"}, {}, Path("/"))
    assert plan_resume(run_of(), WHOLE, ours).settings.deepspeed is None


def test_a_run_that_made_no_checkpoint_begins_where_it_began() -> None:
    flags = trainer_argv({**FLAGS, "resume_from_checkpoint": "/home/ml/old/checkpoint-8"})
    run = run_of(
        argv=["p", "-m", "torch.distributed.run", "-m", "trainer.sft", *flags], asked=ASKED
    )
    resume = plan_resume(run, {"node1": held({}), "node2": held({})}, SETTINGS)
    assert resume.lines() == (
        "no checkpoint was made: going on from ~/old/checkpoint-8, as it did",
    )
    assert resume.recipe["resume_from_checkpoint"] == "~/old/checkpoint-8"
