"""Commands to paste: every shell takes them as they are, and no secret is in them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision.launch.code import read_trainer_code
from provision.launch.environment import parse_environ
from provision.launch.numa import Binding
from provision.launch.plan import plan_launch
from provision.launch.printed import all_commands, node_commands
from provision.launch.spec import RunHost, RunSpec, Script

SPEC = RunSpec(
    run="r1",
    hosts=(
        RunHost(name="node1", slots=2, home="/home/m l", nproc_per_node=2, cores=8),
        RunHost(name="node2", slots=4, home="/h", nproc_per_node=1, devices=(3,)),
    ),
    master_addr="10.0.0.1",
    master_port=29501,
    python="~/p",
    accelerator="cuda",
    script=Script(path="src/train it.py", args=("--name", "a b", "$HOME", "it's")),
    environ=parse_environ({"HF_TOKEN": "canary", "NCCL_DEBUG": "WARN now"}, {}, {}),
)
OURS = replace(
    SPEC, script=None, objective="sft", zero_config="zero2.json", model="~/m", data="~/d"
)
DEEPSPEED = replace(SPEC, launcher="deepspeed")


def test_a_shell_reads_what_was_planned(tmp_path: Path) -> None:
    said = tmp_path / "torchrun"
    said.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    )
    said.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", f"HF_TOKEN=mine\n{node_commands(SPEC, 1)}"],  # set, and not exported
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    argv, seen = json.loads(done.stdout)
    assert argv == [
        *("--nnodes", "2", "--node-rank", "1", "--nproc-per-node", "1"),
        *("--master-addr", "10.0.0.1", "--master-port", "29501"),
        *("src/train it.py", "--name", "a b", "$HOME", "it's"),
    ]
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["NCCL_DEBUG"]) == ("3", "WARN now")
    assert seen["HF_TOKEN"] == "mine"
    assert [name for name in seen if name.startswith("ZEROFLEET")] == ["ZEROFLEET_OUTPUT_DIR"]
    assert (seen["ZEROFLEET_OUTPUT_DIR"], seen["NODE_RANK"]) == ("outputs/r1", "1")
    assert (tmp_path / "outputs").is_dir()


def test_a_shell_that_lacks_a_secret_says_so() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", node_commands(SPEC, 0)],
        env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "HF_TOKEN: export it in this shell first" in done.stderr
    assert "canary" not in node_commands(SPEC, 0)


def test_our_trainer_runs_in_a_copy_of_the_checkout() -> None:
    text = node_commands(OURS, 0)
    assert "-m trainer.sft --model_name_or_path '/home/m l/m' --train_file_dir" in text
    assert "--output_dir outputs/r1 --deepspeed zero_configs/zero2.json" in text
    assert "--output_dir '/home/m l/out'" in node_commands(replace(OURS, output="~/out"), 0)


def test_ranks_are_bound_as_planned() -> None:
    host = replace(SPEC.hosts[0], numa=Binding(mode="node", why="2 NUMA nodes"))
    bound = replace(SPEC, hosts=(host, SPEC.hosts[1]))
    assert "--numa-binding node" in node_commands(bound, 0)
    assert "--numa-binding" not in node_commands(bound, 1)
    assert "--numa-binding" not in node_commands(replace(bound, launcher="deepspeed"), 0)


def test_a_configuration_of_the_users_own_is_there_when_the_trainer_looks(tmp_path: Path) -> None:
    own, checkout = tmp_path / "my.json", tmp_path / "checkout"
    own.write_text('{\n  "it\'s": "$HOME `id`",\n  "n": [1, 2]\n}')
    (checkout / "trainer").mkdir(parents=True)
    (checkout / "trainer" / "sft.py").touch()
    (checkout / "zero_configs").mkdir()
    launch = plan_launch(
        replace(OURS, zero_config="own.json", by_hand=0),
        read_trainer_code(checkout, own),
        lambda name, args: (name, *args),
    )
    (commands,) = all_commands(launch).values()
    assert "--deepspeed zero_configs/own.json" in commands
    (tmp_path / "torchrun").write_text("#!/bin/sh\n")
    (tmp_path / "torchrun").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HF_TOKEN": "mine"}
    subprocess.run(["sh", "-c", commands], cwd=checkout, env=environ, check=True)
    said = (checkout / "zero_configs" / "own.json").read_text()
    assert json.loads(said) == json.loads(own.read_text())


@pytest.mark.parametrize("spec", [SPEC, OURS, DEEPSPEED], ids=["script", "trainer", "deepspeed"])
def test_shellcheck(spec: RunSpec) -> None:
    if not shutil.which("shellcheck"):
        pytest.fail("no shellcheck: .ci/run installs it, and so does your package manager")
    for node_rank in (0, 1):  # SC2016: a $ in single quotes is just what is meant
        done = subprocess.run(
            ["shellcheck", "--shell", "sh", "--exclude", "SC2016", "-"],
            input=node_commands(spec, node_rank), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
