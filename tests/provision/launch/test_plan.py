from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.plan import (
    CodeFile,
    LaunchPlan,
    plan_launch,
    plan_nodes,
    read_code_files,
    trainer_argv,
)
from provision.launch.spec import RunHost, RunSpec
from provision.steps import Put, Run

GOLDEN = Path(__file__).parent / "golden" / "two-hosts.txt"
CODE = tuple(
    CodeFile(target=name, source=Path("/checkout") / name, sha256=digit * 64, size=10)
    for name, digit in (("trainer/sft.py", "1"), ("zero_configs/zero2_offload.json", "2"))
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
        ),
        RunHost(name="node2:2222", slots=8, home="/data/home of ml", nproc_per_node=1),
    ),
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
    assert one["GLOO_SOCKET_IFNAME"] == one["NCCL_SOCKET_IFNAME"] == "eth0"
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
    *code, last = [step.do for step in folder.of("node1")]
    assert isinstance(last, Put)
    assert last.target == f"/home/ml/.zerofleet/runs/{SPEC.run}/plan.json"
    assert last.mode == 0o600
    assert last.content is not None
    assert last.sha256 == hashlib.sha256(last.content).hexdigest()
    written = json.loads(last.content)
    assert written["argv"] == list(plan.nodes[0].argv)
    assert written["limits"] == {"grace": 15.0}
    assert [put.target.split("/code/")[1] for put in code if isinstance(put, Put)] == [
        file.target for file in CODE
    ]
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


@pytest.mark.parametrize("missing", ["trainer/sft.py", "zero_configs/zero2_offload.json"])
def test_incomplete_code(missing: str) -> None:
    with pytest.raises(ConfigError, match=f"no {missing}"):
        plan_launch(SPEC, [file for file in CODE if file.target != missing], script)


def test_code_files(tmp_path: Path) -> None:
    for name in ("trainer/sft.py", "zero_configs/zero1.json", "trainer/notes.txt", "other/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hello\n")
    files = read_code_files(tmp_path)
    assert [file.target for file in files] == ["trainer/sft.py", "zero_configs/zero1.json"]
    assert files[0].size == 6
    assert files[0].sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
