"""``invoke node`` on the command line: positions that may be left out, what it plans, what it is
refused for. Really parsed by Invoke; nothing is started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ENV = ("--python", sys.executable, "--accelerator", "cpu")


@pytest.fixture
def node(tmp_path):
    (tmp_path / "train.py").touch()

    def run(*words, argv=None, **variables):
        own = [sys.executable, "-P", "-m", "invoke", "--search-root", str(CHECKOUT), "node"]
        kept = {name: os.environ[name] for name in ("PATH",)}
        done = subprocess.run(
            [*(argv or own), *words, *ENV, "--dry-run", "--json"],
            cwd=tmp_path, env={**kept, "HOME": str(tmp_path / "home"), **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return json.loads(done.stdout), done.stderr

    return run


def command_of(answer):
    (launch,) = answer["launch"]["nodes"]
    return launch["command"]


def test_by_position(node):
    answer, _ = node(
        *["3", "2", "4", "192.168.1.100", "29501"], "--script", "train.py", NODE_RANK="1"
    )
    meet = "--nnodes 2 --node-rank 1 --nproc-per-node 4 --master-addr 192.168.1.100"
    assert f"{meet} --master-port 29501" in command_of(answer)


def test_the_two_scripts_by_variables(node):
    variables = {"MASTER_ADDR": "192.168.1.100", "WORLD_SIZE": "2", "NODE_RANK": "1"}
    variables |= {"ZEROFLEET_VENV": sys.prefix, "MODEL_PATH": "Qwen/Qwen3-0.6B"}
    variables |= {"TRAIN_FILE_DIR": "data", "GRADIENT_ACCUMULATION_STEPS": "3"}
    script = CHECKOUT / "scripts" / "torchrun_multi_node_multi_gpu.sh"
    answer, said = node("1", argv=[str(script)], **variables)
    assert "WORLD_SIZE=2 is taken as 2 nodes" in said
    command = command_of(answer)
    assert "--node-rank 1 --nproc-per-node 4 --master-addr 192.168.1.100" in command
    assert "-m trainer.sft --model_name_or_path Qwen/Qwen3-0.6B" in command
    assert "zero1.json" in command
    assert "--gradient_accumulation_steps 3" in command
    script = CHECKOUT / "scripts" / "deepspeed_muti_node_muti_gpu.sh"
    answer, _ = node(argv=[str(script)], **variables)
    assert "-m deepspeed.launcher.launch" in command_of(answer)


def test_refusals(node):
    answer, _ = node("2", "--objective", "dance")
    assert answer["error"]["what"] == "--objective"
    answer, _ = node("2", "2", "1", "localhost", "--script", "train.py", NODE_RANK="1")
    assert answer["error"]["what"] == "--master-addr"
    assert answer["exit"] == 2


def test_flags_of_train_and_one_id_for_all_nodes(node, tmp_path):
    own = tmp_path / "my.json"
    own.write_text('{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}')
    shell = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "192.168.1.100", "RUN_ID": "mine"}
    shell |= {"MODEL_PATH": "Qwen/Qwen3-0.6B", "TRAIN_FILE_DIR": "data", "OMP_NUM_THREADS": "3"}
    answer, _ = node("--deepspeed", str(own), "--lost-after", "9", **shell)
    (launch,) = answer["launch"]["nodes"]
    assert "/code/zero_configs/own.json" in launch["command"]
    assert launch["run_dir"].endswith("/.zerofleet/runs/mine")
    assert launch["environ"]["OMP_NUM_THREADS"] == "3"
    limits = {"grace": 15, "failure_grace": 3, "lost_after": 9, "start_within": 300}
    assert answer["launch"]["limits"] == limits
    (tmp_path / "home/.zerofleet/runs/mine").mkdir(parents=True)
    answer, _ = node("--deepspeed", str(own), **shell)
    assert (answer["error"]["what"], answer["exit"]) == ("RUN_ID", 2)
