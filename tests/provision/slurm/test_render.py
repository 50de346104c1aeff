"""The job file: whole ones as they are, and that bash and shellcheck take all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.launch.code import Code, CodeFile
from provision.launch.environment import parse_environ
from provision.launch.plan import LaunchPlan, plan_launch
from provision.launch.spec import RunHost, RunSpec, Script
from provision.slurm.render import FROM_JOB_ID, MASTER_ADDR, render
from provision.slurm.spec import SlurmSpec
from provision.slurm.text import fill

GOLDEN = Path(__file__).parent / "golden"
CODE = Code(
    files=tuple(
        CodeFile(target=name, size=10)
        for name in ("trainer/sft.py", "zero_configs/zero2.json", "src/train it.py")
    ),
    archive=b"all of it",
)
JOB = SlurmSpec(nodes=4, gpus=8, time="20:00:00", job_name="zerofleet-sft", cpus_per_task=10)


def planned(nodes: int = 4, gpus: int = 8, cores: int | None = 10, **changes: Any) -> LaunchPlan:
    spec = RunSpec(
        run="20261121-083012-sft-3f9c",
        hosts=tuple(
            RunHost(
                name=f"node{n}", slots=gpus, home="/scratch/ml", nproc_per_node=gpus, cores=cores
            )
            for n in range(nodes)
        ),
        master_addr=MASTER_ADDR,
        master_port=FROM_JOB_ID,
        objective="sft",
        zero_config="zero2.json",
        model="/scratch/ml/models/qwen 3",
        data="/data/a.jsonl,/data/b.jsonl",
        python="/scratch/ml/.zerofleet/envs/4b1d/bin/python",
        accelerator="cuda",
        flags={"max_steps": 50, "learning_rate": 2e-5, "resume_from_checkpoint": "latest-if-any"},
        by_hand=0,
    )
    return plan_launch(replace(spec, **changes), CODE, lambda name, args: (name, *args))


OWN = {
    "script": Script(path="src/train it.py", args=("--name", "it's", "$HOME")),
    "objective": "",
    "zero_config": "",
    "model": "",
    "data": "",
    "flags": {},
    "accelerator": "cpu",
    "master_port": 29500,
    "environ": parse_environ({"HF_TOKEN": "canary", "NCCL_DEBUG": "WARN now"}, {}, {}),
}
CASES = {
    "trainer": (planned(), JOB),
    "script": (
        planned(nodes=1, gpus=2, cores=None, **OWN),
        replace(
            JOB,
            nodes=1,
            gpus=2,
            cpus_per_task=None,
            exclusive=True,
            restarts=0,
            preflight=False,
            partition="debug",
            more=("--reservation=x",),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    assert render(*CASES[name]) == (GOLDEN / f"{name}.sbatch").read_text()


@pytest.mark.parametrize("name", CASES)
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    text = render(*CASES[name])
    done = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


def test_lines_end_as_unix_has_them_and_no_place_is_left() -> None:
    for case in CASES.values():
        text = render(*case)
        assert "\r" not in text
        assert "@ranks@" not in text
        assert all(len(line) <= 120 for line in text.splitlines() if line.startswith("#"))


def test_a_secret_is_not_in_the_file() -> None:
    assert "canary" not in render(*CASES["script"])


def bash(text: str, **environ: str) -> str:
    environ = {"PATH": os.environ["PATH"], **environ}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_word_of_the_program_arrives_as_it_was_given() -> None:
    text = render(*CASES["script"])
    program = text[text.index("program=(") : text.index(")\n", text.index("program=(")) + 2]
    said = bash(f"{program}\nprintf '%s\\0' \"${{program[@]}}\"")
    assert said.split("\0")[:-1] == ["src/train it.py", "--name", "it's", "$HOME"]


def test_what_a_node_runs_is_filled_in_on_that_node(tmp_path: Path) -> None:
    """The part in single quotes, as a node's shell runs it; python tells what it was given."""
    text = render(planned(nodes=2), replace(JOB, nodes=2))
    task = text[text.index("srun --kill-on-bad-exit=1") :].split("bash -c '")[1].split("' node ")[0]
    (tmp_path / "code").mkdir()
    tools = {
        "python": 'echo "$GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME $NODE_RANK $*"',
        "ip": '[ "$4" = 10.0.0.1 ] && echo "10.0.0.1 dev ib0 src 10.0.0.2 uid 0"',
        "getent": "echo 10.0.0.1 STREAM node1",
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    said = bash(
        task,
        RUN=str(tmp_path),
        ATTEMPT=str(tmp_path),
        PYTHON=str(tmp_path / "python"),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        SLURM_NODEID="1",
        SLURM_JOB_NUM_NODES="2",
        MASTER_ADDR="node1",
        SECOND_ADDR="node2",
        MASTER_PORT="20007",
    )
    assert said.startswith("ib0 =ib0 1 -m torch.distributed.run --nnodes 2 --node-rank 1")
    assert "--master-addr node1 --master-port 20007" in said


@pytest.mark.parametrize("path", ["/data/a b", "/data/100%", "relative", "/data/$USER"])
def test_a_folder_that_slurm_would_read_otherwise_is_refused(path: str) -> None:
    host = replace(planned().spec.hosts[0], home=path)
    with pytest.raises(ConfigError, match="--shared"):
        render(planned(hosts=(host,) * 4), JOB)


def test_deepspeeds_launcher_can_not_know_the_nodes() -> None:
    with pytest.raises(ConfigError, match="--launcher"):
        render(planned(launcher="deepspeed"), JOB)


def test_a_card_of_the_users_own_stays() -> None:
    own = parse_environ({"NCCL_SOCKET_IFNAME": "bond0"}, {}, {})
    text = render(planned(environ=own), JOB)
    assert "export NCCL_SOCKET_IFNAME=bond0" in text
    assert "ip -o route" not in text


def test_a_place_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("x @unknown@", known=1)
