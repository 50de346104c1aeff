"""Settings and facts become what preflight asks and the run that is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.inventory import parse_inventory
from provision.launch.code import Code, CodeFile
from provision.launch.environment import RunEnviron
from provision.launch.include import Choice, choose
from provision.launch.nodes import plan_nodes
from provision.launch.prepare import (
    Program,
    clock_offsets,
    make_run_hosts,
    make_run_spec,
    make_wanted,
    read_program,
    read_run_recipe,
)
from provision.launch.spec import Limits
from provision.preflight.nics import Way
from provision.settings import make_settings

RUN = {"model": "/m", "data": "/d"}
WAYS = {
    "node1": Way(interface="eth0", address="10.0.0.1"),
    "node2": Way(interface="eth1", address="10.0.0.2"),
}
PROOF = {"name": "abc", "accelerator": "cpu", "ops": ["cpu_adam"]}


def code(*names: str) -> Code:
    return Code(files=tuple(CodeFile(target=n, size=0) for n in names), archive=b"")


CODE = code("trainer/sft.py", "zero_configs/zero2.json", "zero_configs/zero2_offload.json")


def settings(**flags):
    return make_settings({}, {**RUN, **flags}, Path("/here"))


@pytest.fixture
def facts(make_facts):
    def host(name, boot):
        return make_facts(name, boot_id=boot, cpu_cores=8)

    return {"node1": host("node1", "a"), "node2": host("node2", "b")}


def test_every_host_is_told_its_own_interface(facts):
    inventory = parse_inventory("node1 slots=4\nnode2 slots=2\n", "x")
    hosts = make_run_hosts(Choice(inventory=inventory), facts, "cuda", WAYS)
    assert [(h.slots, h.socket_interface, h.cores) for h in hosts] == [
        (4, "eth0", 8),
        (2, "eth1", 8),
    ]


def test_slots_default_to_the_gpus_or_to_one_on_the_cpu(facts, make_facts):
    inventory = parse_inventory("node1\n", "x")
    choice = Choice(inventory=inventory)
    assert make_run_hosts(choice, facts, "cpu", WAYS)[0].slots == 1
    gpus = {"node1": make_facts("node1", gpus=[{"name": "A100"}] * 8)}
    assert make_run_hosts(choice, gpus, "cuda", WAYS)[0].slots == 8


def test_names_of_one_machine_share_its_cores(facts, make_facts):
    inventory = parse_inventory("node1\nnode2\n", "x")
    same = {n: make_facts(n, boot_id="a", cpu_cores=8) for n in facts}
    assert [h.cores for h in make_run_hosts(Choice(inventory=inventory), same, "cpu", WAYS)] == [
        4,
        4,
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"zero": "4"}, "--zero: found 4"),
        ({"zero": "3"}, "offload with ZeRO stage 3: found none"),
        ({"model": ""}, "--model: found nothing"),
        ({"data": ""}, "--data: found nothing"),
        ({"recipe": "/no/recipe.yaml"}, "recipe /no/recipe.yaml"),
        ({"set": ["deepspeed=x.json"]}, "--zero and --offload"),
    ],
)
def test_what_can_be_refused_before_a_host_is_asked_is(flags, message):
    with pytest.raises(ConfigError, match=message):
        read_run_recipe(settings(**flags), CODE)


def test_the_run_is_what_preflight_asked_about(facts):
    inventory = parse_inventory("node1\nnode2\n", "x")
    chosen = settings(offload="optimizer", set=["max_steps=5"], grace="90", lost_after="20")
    hosts = make_run_hosts(Choice(inventory=inventory), facts, "cpu", WAYS)
    wanted = make_wanted(chosen, hosts, "10.0.0.1", WAYS, PROOF, {"seed": 1, "max_steps": "9"})
    assert wanted.node0 == "node1"
    assert wanted.addresses == {"node1": "10.0.0.1", "node2": "10.0.0.2"}
    assert wanted.flags == {"seed": 1, "max_steps": "5"}
    assert (wanted.zero, wanted.offload, wanted.accelerator) == (2, "optimizer", "cpu")
    assert wanted.output == "~/.zerofleet/runs"
    recipe = {"seed": 1, "objective": "orpo"}
    program = Program(code=CODE, environ=RunEnviron(), recipe=recipe)
    spec = make_run_spec(chosen, wanted, hosts, "run-1", program)
    assert spec.objective == "orpo"
    assert spec.zero_config == "zero2_offload.json"
    assert spec.python == "~/.zerofleet/envs/abc/bin/python"
    assert spec.flags == {"seed": 1, "max_steps": "5"}
    assert (spec.model, spec.data, spec.output) == ("/m", "/d", None)
    assert spec.limits == Limits(grace=90.0, lost_after=20.0)
    assert plan_nodes(spec)[0].environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "95"


def test_torchrun_gives_its_ranks_the_longer_of_both_graces(facts):
    inventory = parse_inventory("node1\nnode2\n", "x")
    hosts = make_run_hosts(Choice(inventory=inventory), facts, "cpu", WAYS)
    chosen = settings(grace_after_failure="60")
    wanted = make_wanted(chosen, hosts, "10.0.0.1", WAYS, PROOF, {})
    spec = make_run_spec(
        chosen, wanted, hosts, "run-1", Program(code=CODE, environ=RunEnviron(), recipe={})
    )
    assert spec.limits == Limits(failure_grace=60.0)
    assert plan_nodes(spec)[0].environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "65"


def test_clock_offsets_are_whole_seconds_and_leave_out_the_unknown(make_facts):
    facts = {
        "node1": make_facts("node1", clock_offset={"seconds": 0.3, "bound": 0.1}),
        "node2": make_facts("node2", clock_offset={"seconds": 12.4, "bound": 0.1}),
        "node3": make_facts("node3", clock_offset={"unknown": "?"}),
    }
    assert clock_offsets(facts) == {"node1": 0.0, "node2": 12.0}


def test_chosen_slots_and_nproc(facts):
    inventory = parse_inventory("node1 slots=4\nnode2 slots=4\n", "x")
    hosts = make_run_hosts(choose(inventory, "node1:1,3@node2", None), facts, "cuda", WAYS, 2)
    assert [(h.devices, h.nproc_per_node, h.slots) for h in hosts] == [((1, 3), 2, 2), (None, 2, 4)]
    wanted = make_wanted(settings(), hosts, "10.0.0.1", WAYS, PROOF, {})
    assert wanted.devices == {"node1": (1, 3)}


def test_a_script_asks_for_no_model_and_no_data(facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    chosen = make_settings({**RUN, "zero": 7}, {"script": "train.py", "nproc": "1"}, tmp_path)
    argv = ["invoke", "train", "--script", "train.py", "--", "--lr", "1"]
    program = read_program(chosen, tmp_path, argv)
    assert (program.objective, program.script.path) == ("script", "train.py")
    hosts = make_run_hosts(
        Choice(inventory=parse_inventory("node1\n", "x")), facts, "cpu", WAYS, chosen.nproc
    )
    wanted = make_wanted(chosen, hosts, "10.0.0.1", WAYS, PROOF, program.recipe)
    assert (wanted.model, wanted.data, wanted.offload) == ("", "", "none")
    assert not wanted.on("bf16", default=True)
    spec = make_run_spec(chosen, wanted, hosts, "run-1", program)
    assert spec.script.args == ("--lr", "1")
    assert (spec.objective, spec.zero_config, spec.model, spec.flags) == ("", "", "", {})


def test_arguments_without_a_script_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="arguments behind --: found --lr 1"):
        read_program(settings(), tmp_path, ["invoke", "train", "--", "--lr", "1"])


def test_env_of_invoke_yaml_and_of_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "t")
    (tmp_path / "train.py").touch()
    config = {"script": "train.py", "env": {"A": 1, "B": "2"}}
    chosen = make_settings(config, {"env": ["B=3", "HF_TOKEN"]}, tmp_path)
    environ = read_program(chosen, tmp_path, ["invoke"]).environ
    assert {name: environ.plain[name] for name in ("A", "B")} == {"A": "1", "B": "3"}
    assert environ.secret == {"HF_TOKEN": "t"}
    with pytest.raises(ConfigError, match=r"invoke\.yaml, env"):
        make_settings({"env": ["A=1"]}, {}, tmp_path)
