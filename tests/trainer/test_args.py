"""trainer/args.py and recipes/: the recipe's keys are the trainer's flags."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trainer.args import parse_args, require_bf16
from trainer.errors import RequestError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sft.yaml"
#: What the launcher fills in.
GIVEN = ["--model_name_or_path", "m", "--train_file_dir", "d", "--output_dir", "o"]


def as_argv(recipe: dict[str, object]) -> list[str]:
    """A recipe as the controller passes it on."""
    argv = []
    for name, value in recipe.items():
        argv += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return argv


def flat(argv: list[str]) -> dict[str, object]:
    """Every flag's value."""
    return {
        field.name: getattr(group, field.name)
        for group in parse_args(argv)
        for field in dataclasses.fields(group)
    }


def test_every_key_of_the_recipe_is_a_flag_and_states_its_default() -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    assert recipe
    assert flat(GIVEN + as_argv(recipe)) == flat(GIVEN)


def test_flags_of_the_recipe_can_be_overridden() -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    changed = flat([*GIVEN, *as_argv(recipe), "--use_peft", "false", "--learning_rate", "1e-3"])
    assert changed["use_peft"] is False
    assert changed["learning_rate"] == 1e-3


def test_the_recipe_leaves_the_launchers_flags_alone() -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    assert not {flag.removeprefix("--") for flag in [*GIVEN, "--deepspeed"]} & set(recipe)


def test_checkpointing_can_be_turned_off_by_either_name() -> None:
    assert parse_args(GIVEN)[3].activation_checkpointing is True
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        assert parse_args([*GIVEN, f"--{name}", "false"])[3].activation_checkpointing is False


@pytest.mark.parametrize("argv", [["--model_max_length", "4"]])
def test_impossible_values_are_refused(argv: list[str]) -> None:
    with pytest.raises(RequestError):
        parse_args([*GIVEN, *argv])


def test_a_misspelt_flag_is_refused_rather_than_guessed() -> None:
    with pytest.raises((SystemExit, ValueError)):
        parse_args([*GIVEN, "--learning_rat", "1"])


def test_a_rank_s_start() -> None:
    """In one process, because its imports take seconds: the group's timeout, and no compiler."""
    code = (
        "import sys, torch.distributed as d; from trainer import engine;"
        "engine.spare_compiler({}); from deepspeed.runtime.zero import stage3;"
        "from deepspeed.runtime.zero.muon.original_muon import muon_update;"
        "print('compiler', 'torch._inductor.compile_fx' in sys.modules);"
        "from trainer.args import parse_args;"
        f"parse_args({[*GIVEN, '--ddp_timeout', '77']!r});"
        "print('timeout', d.distributed_c10d._get_default_timeout, "
        "d.group.WORLD._get_backend(__import__('torch').device('cpu')).options._timeout)"
    )
    environ = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0:01:17" in result.stdout
    assert "compiler False" in result.stdout


def test_bf16_on_a_gpu_without_it_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    require_bf16()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(RequestError, match=r"Tesla T4 has no bf16 .*: use --bf16 false"):
        require_bf16()
