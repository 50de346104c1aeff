"""zero_configs/*.json: DeepSpeed takes each, batches add up, each is what its name says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import Qwen3Config
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from trainer.args import parse_args
from trainer.engine import Zero, requested_zero

FOLDER = Path(__file__).parents[2] / "zero_configs"
EXPECTED = {
    "zero1.json": Zero(stage=1),
    "zero1_offload.json": Zero(stage=1, optimizer="cpu"),
    "zero2.json": Zero(stage=2),
    "zero2_offload.json": Zero(stage=2, optimizer="cpu"),
    "zero3.json": Zero(stage=3),
    "zero3_offload_optimizer.json": Zero(stage=3, optimizer="cpu"),
    "zero3_offload.json": Zero(stage=3, optimizer="cpu", parameters="cpu"),
}
VARIANTS = {
    "variants/zero3_hpz.json": Zero(stage=3),
    "variants/zero3_plus_plus.json": Zero(stage=3),
    "variants/zero3_nvme.json": Zero(stage=3, optimizer="nvme", parameters="nvme"),
}
EXPECTED |= VARIANTS
ARGV = ["--model_name_or_path", "m", "--train_file_dir", "d", "--output_dir", "o"]
BATCH = ["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "5"]


class Model:
    """What transformers reads of a model to fill in bucket sizes."""

    config = Qwen3Config(hidden_size=128)


def filled(name: str) -> dict[str, object]:
    """The configuration as transformers hands it to DeepSpeed."""
    args = parse_args([*ARGV, *BATCH])[3]
    config = HfTrainerDeepSpeedConfig(str(FOLDER / name))
    config.trainer_config_process(args)
    config.trainer_config_finalize(args, Model(), 10)
    result: dict[str, object] = config.config
    return result


def test_there_is_an_expectation_for_every_file() -> None:
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.json")}
    assert there == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_deepspeed_takes_it(name: str) -> None:
    config = DeepSpeedConfig(filled(name))
    assert config.train_micro_batch_size_per_gpu == 3
    assert config.gradient_accumulation_steps == 5
    assert config.train_batch_size == 3 * 5
    assert config.bfloat16_config.enabled
    assert not config.float16_config.enabled
    assert config.gradient_clipping == 1.0
    assert config.zero_config.stage == EXPECTED[name].stage
    # Else the flags' learning rate and schedule would be overridden.
    assert config.optimizer_name is None
    assert config.scheduler_name is None


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_it_asks_for_what_its_name_says(name: str) -> None:
    asked = json.loads((FOLDER / name).read_text())
    assert requested_zero(asked) == EXPECTED[name]
    gathers = asked["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save")
    # "auto" would mean false here.
    assert gathers is (True if EXPECTED[name].stage == 3 else None)


def test_a_variant_has_what_it_is_there_for() -> None:
    hpz = DeepSpeedConfig(filled("variants/zero3_hpz.json")).zero_config
    assert (hpz.zero_hpz_partition_size, hpz.zero_quantized_weights) == (8, False)
    plus = DeepSpeedConfig(filled("variants/zero3_plus_plus.json")).zero_config
    assert plus.zero_hpz_partition_size == 8
    assert plus.zero_quantized_weights
    assert plus.zero_quantized_gradients
    nvme = DeepSpeedConfig(filled("variants/zero3_nvme.json"))
    assert str(nvme.zero_config.offload_param.nvme_path) == "/local_nvme"
    assert nvme.zero_config.offload_optimizer.device == "nvme"
    assert nvme.aio_config["queue_depth"] == 8


def test_an_unknown_key_is_an_error() -> None:
    config = filled("zero2.json")
    config["zero_optimization"]["cpu_ofload"] = True  # type: ignore[index]
    with pytest.raises(Exception, match="cpu_ofload"):
        DeepSpeedConfig(config)


def test_a_batch_that_contradicts_the_flags_is_an_error() -> None:
    args = parse_args([*ARGV, *BATCH])[3]
    asked = {**json.loads((FOLDER / "zero2.json").read_text()), "gradient_accumulation_steps": 8}
    config = HfTrainerDeepSpeedConfig(asked)
    config.trainer_config_process(args)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=8 vs hf"):
        config.trainer_config_finalize(args, Model(), 10)
