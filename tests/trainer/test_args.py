"""trainer/args.py and recipes/: the recipe's keys are the trainer's flags."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from trainer.args import LoraArgs, ModelArgs, parse_args, require_bf16
from trainer.errors import RequestError
from trainer.flags import GROUPS, MORE, REST, Parser
from trainer.orpo import OrpoArgs, OrpoDataArgs
from trainer.pretrain import PretrainDataArgs
from trainer.sft import SftDataArgs

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


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max_train_samples", "0"], "--max_train_samples 0: at least 1"),
        (["--max_eval_samples", "-1"], "--max_eval_samples -1: at least 1"),
        (["--lora_rank", "0"], "--lora_rank 0: at least 1"),
        (["--model_max_length", "7"], "--model_max_length 7: at least 8"),
        (["--eval_strategy", "steps", "--eval_steps", "2"], "nothing to evaluate on"),
        (["--fsdp", "true"], "there is no FSDP here"),
    ],
)
def test_what_can_not_be_honoured_is_one_line(argv: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_args([*GIVEN, *argv])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--label_smoothing_factor", "0.1"], "no labels to smooth"),
        (["--train_sampling_strategy", "group_by_length"], "two lengths"),
    ],
)
def test_what_means_nothing_to_pairs(argv: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_args([*GIVEN, *argv], OrpoDataArgs, training_args=OrpoArgs)


@pytest.mark.parametrize(
    ("argv", "steps"),
    [
        ([], 100),
        (["--num_train_epochs", "3"], -1),
        (["--num-train-epochs=3"], -1),
        (["--num_train_epochs", "3", "--max_steps", "7"], 7),
    ],
)
def test_epochs_that_were_asked_for_are_not_cut_by_an_objectives_steps(
    argv: list[str], steps: int
) -> None:
    *_, training = parse_args([*GIVEN, *argv], OrpoDataArgs, training_args=OrpoArgs)
    assert training.max_steps == steps


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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--learning_rat", "1"], "--learning_rat: there is no such flag; --learning_rate?"),
        (["--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'"),
        (["--save_strategy", "x"], "--save_strategy: invalid choice: 'x' (choose from"),
        (["--load_best_model_at_end", "true"], "--load_best_model_at_end requires the save and"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_args([*GIVEN, *argv])
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_help_begins_with_what_users_set() -> None:
    kinds = (ModelArgs, OrpoDataArgs, LoraArgs, OrpoArgs)
    text = Parser(kinds).format_help()
    titles = [f"\n{title}:\n" for title in (*GROUPS, MORE, REST)]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    begin, end = places[2], places[3]
    flags = [line.split()[0] for line in text[begin:end].splitlines() if line.startswith("  --")]
    assert flags[:4] == ["--learning_rate", "--num_train_epochs", "--max_steps", "--warmup_steps"]
    assert "--orpo_beta" in flags
    assert "--block_size" not in text
    # Every flag that is shown first is one of some objective's.
    known = {
        field.name for kind in (*kinds, SftDataArgs, PretrainDataArgs) for field in fields(kind)
    }
    assert {name for names in GROUPS.values() for name in names} <= known


def test_a_rank_s_start() -> None:
    """In one process, because its imports take seconds: the group's timeout, and what is spared."""
    code = (
        "import sys, torch.distributed as d, trainer.sft; from trainer import lean;"
        "lean.spare_compiler({}); from deepspeed.runtime.zero import stage3;"
        "from deepspeed.runtime.zero.muon.original_muon import muon_update;"
        "from accelerate import data_loader;"
        "import gc; gc.disable(); lean.spare_collector();"
        "print('collector', gc.isenabled(), gc.get_freeze_count() > 100_000);"
        "print('datasets', 'datasets' in sys.modules, data_loader.is_datasets_available());"
        "print('compiler', 'torch._inductor.compile_fx' in sys.modules);"
        "from trainer.args import parse_args;"
        f"parse_args({[*GIVEN, '--ddp_timeout', '77']!r});"
        "print('timeout', d.distributed_c10d._get_default_timeout, "
        "d.group.WORLD._get_backend(__import__('torch').device('cpu')).options._timeout);"
        # As a rank ends (trainer/process.py): gloo's destructors may abort it, or never return.
        "sys.stdout.flush(); __import__('os')._exit(0)"
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
    assert "datasets False False" in result.stdout
    assert "collector True True" in result.stdout


def test_bf16_on_a_gpu_without_it_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    require_bf16()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(RequestError, match=r"Tesla T4 has no bf16 .*: use --bf16 false"):
        require_bf16()
