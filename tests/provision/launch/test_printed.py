"""Commands to paste: every shell takes them as they are, and no secret is in them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision.launch.environment import parse_environ
from provision.launch.printed import node_commands
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
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HF_TOKEN": "mine"}
    done = subprocess.run(
        ["sh", "-c", node_commands(SPEC, 1)],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    argv, seen = json.loads(done.stdout)
    assert argv == [
        *("--nnodes", "2", "--node-rank", "1", "--nproc-per-node", "1"),
        *("--master-addr", "10.0.0.1", "--master-port", "29501"),
        *("src/train it.py", "--name", "a b", "$HOME", "it's"),
    ]
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["NCCL_DEBUG"]) == ("3", "WARN now")
    assert seen["HF_TOKEN"] == "mine"
    assert not [name for name in seen if name.startswith("ZEROFLEET")]


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
