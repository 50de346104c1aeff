from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.code import Code, CodeFile
from provision.launch.environment import parse_environ
from provision.launch.nodes import plan_nodes, trainer_argv
from provision.launch.plan import LaunchPlan, plan_launch
from provision.launch.spec import RunHost, RunSpec, Script
from provision.onhost.node import LIMITS
from provision.steps import Put, Run

GOLDEN = Path(__file__).parent / "golden" / "two-hosts.txt"
CODE = Code(
    files=tuple(
        CodeFile(target=name, size=10)
        for name in ("trainer/sft.py", "zero_configs/zero2_offload.json")
    ),
    archive=b"all of it",
)
SPEC = RunSpec(
    run="20261121-083012-sft-3f9c",
    hosts=(
        RunHost(
            name="node1",
            slots=2,
            home="/home/ml",
            nproc_per_node=2,
            socket_interface="eth0",
            cores=16,
            address="10.0.0.1",
        ),
        RunHost(
            name="node2:2222",
            slots=8,
            home="/data/home of ml",
            nproc_per_node=1,
            address="10.0.0.2",
        ),
    ),
    secret="only the plan knows",
    master_addr="10.0.0.1",
    master_port=29500,
    objective="sft",
    zero_config="zero2_offload.json",
    model="~/models/qwen 3",
    data="/data/chats",
    output=None,
    python="~/.zerofleet/envs/4b1d/bin/python",
    accelerator="cuda",
    flags={"max_steps": 50, "bf16": True, "learning_rate": 2e-5, "resume": None, "names": ["a", 1]},
)


def script(name: str, args: Sequence[str]) -> tuple[str, ...]:
    return ("sh", "-c", "blob", name, *args)


@pytest.fixture
def plan() -> LaunchPlan:
    return plan_launch(SPEC, CODE, script)


def test_golden(plan: LaunchPlan) -> None:
    assert str(plan) + "\n" == GOLDEN.read_text()


def test_the_printed_command_is_what_runs(plan: LaunchPlan) -> None:
    for node in plan.nodes:
        place, command = node.command.split(" && ", 1)
        assert shlex.split(place) == ["cd", f"{node.run_dir}/code"]
        words = shlex.split(command)
        assert words[0] == "env"
        pairs = dict(word.split("=", 1) for word in words[1 : 1 + len(node.environ)])
        assert pairs == node.environ
        assert tuple(words[1 + len(node.environ) :]) == node.argv


def test_nothing_that_only_a_shell_expands(plan: LaunchPlan) -> None:
    for node in plan.nodes:
        assert not [word for word in node.argv if "~" in word]
        assert not [value for value in node.environ.values() if "~" in value]


def test_each_host_has_its_own_home_and_ranks_count_on(plan: LaunchPlan) -> None:
    one, two = plan.nodes
    assert (one.node_rank, one.first_rank, one.nproc_per_node) == (0, 0, 2)
    assert (two.node_rank, two.first_rank, two.nproc_per_node) == (1, 2, 1)
    assert one.argv[0] == "/home/ml/.zerofleet/envs/4b1d/bin/python"
    assert two.argv[0] == "/data/home of ml/.zerofleet/envs/4b1d/bin/python"
    assert plan.run_dirs["node2:2222"] == f"/data/home of ml/.zerofleet/runs/{SPEC.run}"


def test_only_what_is_known_is_set(plan: LaunchPlan) -> None:
    one, two = (node.environ for node in plan.nodes)
    assert (one["GLOO_SOCKET_IFNAME"], one["NCCL_SOCKET_IFNAME"]) == ("eth0", "=eth0")
    assert one["OMP_NUM_THREADS"] == "8"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
        assert name not in two


def test_offline_output_and_few_cores() -> None:
    host = RunHost(name="n", slots=8, home="/h", nproc_per_node=8, cores=4)
    flags = {"validation_file_dir": "~/v", "target_modules": "a,b~/c"}
    spec = replace(
        SPEC, hosts=(host,), offline=True, output="~/out", data="~/a,/b,~/c", flags=flags
    )
    (node,) = plan_nodes(spec)
    assert node.environ["HF_HUB_OFFLINE"] == "1"
    assert node.environ["OMP_NUM_THREADS"] == "1"
    given = dict(zip(node.argv, node.argv[1:], strict=False))
    assert given["--output_dir"] == "/h/out"
    assert given["--train_file_dir"] == "/h/a,/b,/h/c"
    assert given["--validation_file_dir"] == "/h/v"
    assert given["--target_modules"] == "a,b~/c"


def test_steps_in_order_and_plan_json_private(plan: LaunchPlan) -> None:
    folder, start = plan.plan.phases
    assert (folder.name, start.name) == ("run folder", "start")
    archive, last, unpack = [step.do for step in folder.of("node1")]
    assert isinstance(archive, Put)
    assert (archive.content, archive.sha256) == (CODE.archive, CODE.sha256)
    assert archive.target == f".zerofleet/store/{CODE.sha256}/code.tar.gz"
    assert isinstance(unpack, Run)
    code = f"{plan.nodes[0].run_dir}/code"
    assert unpack.argv == script("unpack", [archive.target, CODE.sha256, code])
    assert isinstance(last, Put)
    assert last.target == f"/home/ml/.zerofleet/runs/{SPEC.run}/plan.json"
    assert last.mode == 0o600
    assert last.content is not None
    assert last.sha256 == hashlib.sha256(last.content).hexdigest()
    written = json.loads(last.content)
    assert written["argv"] == list(plan.nodes[0].argv)
    limits = {"grace": 15.0, "failure_grace": 3.0, "lost_after": 5.0, "start_within": 120.0}
    assert written["limits"] == limits
    assert set(limits) - {"start_within"} <= set(LIMITS)  # what the supervisor goes by
    (run,) = (step.do for step in start.of("node2:2222"))
    assert isinstance(run, Run)
    assert run.argv == script("supervise", ["start", plan.nodes[1].run_dir])


def test_as_json_shows_every_command(plan: LaunchPlan) -> None:
    shown = json.loads(json.dumps(plan.as_json()))
    assert [node["command"] for node in shown["nodes"]] == [n.command for n in plan.nodes]


def test_flags() -> None:
    flags = {"a": True, "b": False, "c": 1e-05, "d": None, "e": [1, "x y"], "f": "-x"}
    expected = "--a true --b false --c 1e-05 --e 1 'x y' --f=-x"
    assert shlex.join(trainer_argv(flags)) == expected


def without(missing: str) -> Code:
    return replace(CODE, files=tuple(file for file in CODE.files if file.target != missing))


@pytest.mark.parametrize("missing", ["trainer/sft.py", "zero_configs/zero2_offload.json"])
def test_incomplete_code(missing: str) -> None:
    with pytest.raises(ConfigError, match=f"no {missing}"):
        plan_launch(SPEC, without(missing), script)


def test_a_host_that_has_the_code_is_not_sent_it_again() -> None:
    first, second = SPEC.hosts
    first = replace(first, store=frozenset({f"{CODE.sha256}/code.tar.gz"}))
    plan = plan_launch(replace(SPEC, hosts=(first, second)), CODE, script).plan
    sent = [step.host for step in plan.phases[0].steps if "code.tar.gz" in step.action]
    assert sent == ["node1", "node2:2222", "node2:2222"]  # unpack; push, unpack


OWN = replace(
    SPEC,
    objective="",
    zero_config="",
    model="",
    data="",
    flags={},
    script=Script(path="src/train it.py", args=("--lr", "1 e", "$HOME")),
)
OWN_CODE = Code(files=(CodeFile(target="src/train it.py", size=1),), archive=b"x")


def test_a_script_of_the_users_own() -> None:
    plan = plan_launch(OWN, OWN_CODE, script)
    node = plan.nodes[0]
    assert node.argv[-4:] == ("src/train it.py", "--lr", "1 e", "$HOME")
    assert "--deepspeed" not in node.argv
    assert node.output == f"{node.run_dir}/output" == node.environ["ZEROFLEET_OUTPUT_DIR"]
    with pytest.raises(ConfigError, match=r"no src/train it\.py"):
        plan_launch(OWN, CODE, script)


def test_chosen_gpus_are_the_ones_that_ranks_see() -> None:
    first, second = SPEC.hosts
    spec = replace(SPEC, hosts=(replace(first, devices=(2, 5)), second))
    one, two = plan_nodes(spec)
    assert one.environ["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert "CUDA_VISIBLE_DEVICES" not in two.environ
    assert "CUDA_VISIBLE_DEVICES" not in plan_nodes(replace(spec, accelerator="cpu"))[0].environ


def test_a_secret_is_in_one_private_file_and_nowhere_else() -> None:
    shell = {"HF_TOKEN": "canary-1", "HF_ENDPOINT": "https://hub.example", "OTHER": "x"}
    spec = replace(OWN, environ=parse_environ(shell, {}, {"MY_KEY": "canary-2"}))
    plan = plan_launch(spec, OWN_CODE, script)
    shown = f"{plan}{plan!r}{json.dumps(plan.as_json())}{plan.nodes[0].command}"
    assert "canary" not in shown
    assert "HF_TOKEN=(secret" in shown
    assert plan.nodes[0].environ["HF_ENDPOINT"] == "https://hub.example"
    puts = [step.do for step in plan.plan.phases[0].steps if isinstance(step.do, Put)]
    holding = [put for put in puts if put.content and b"canary" in put.content]
    assert [put.target for put in holding] == [f"{n.run_dir}/secrets.json" for n in plan.nodes]
    assert {put.mode for put in holding} == {0o600}
    assert json.loads(holding[0].content or b"") == {"HF_TOKEN": "canary-1", "MY_KEY": "canary-2"}


def test_the_users_variables_go_over_facts_and_never_over_the_launchers() -> None:
    environ = parse_environ({"NCCL_SOCKET_IFNAME": "ib0"}, {}, {"OMP_NUM_THREADS": "3"})
    node = plan_nodes(replace(SPEC, environ=environ))[0]
    assert (node.environ["NCCL_SOCKET_IFNAME"], node.environ["OMP_NUM_THREADS"]) == ("ib0", "3")
    assert node.environ["GLOO_SOCKET_IFNAME"] == "eth0"


def test_deepspeeds_launcher_gets_the_same_world() -> None:
    node = plan_nodes(replace(OWN, launcher="deepspeed"))[1]
    assert node.argv[1:3] == ("-m", "deepspeed.launcher.launch")
    world = json.loads(base64.urlsafe_b64decode(node.argv[3].removeprefix("--world_info=")))
    assert world == {"node1": [0, 1], "node2:2222": [0]}
    assert node.argv[4:8] == (
        "--node_rank=1",
        "--master_addr=10.0.0.1",
        "--master_port=29500",
        "--no_local_rank",
    )
    assert "--module" not in node.argv
    ours = plan_nodes(replace(SPEC, launcher="deepspeed"))[0].argv
    assert ours[ours.index("--module") + 1] == "trainer.sft"


def test_home_is_each_host_s_own_also_behind_a_comma():
    spec = replace(SPEC, data="~/a.jsonl, ~/b.jsonl,~/c~/d")
    node = plan_nodes(spec)[1]
    home = "/data/home of ml"
    wanted = f"{home}/a.jsonl, {home}/b.jsonl,{home}/c~/d"
    assert node.argv[node.argv.index("--train_file_dir") + 1] == wanted
