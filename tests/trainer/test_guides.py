"""Flags of the guides that users bring along: each is taken, translated, or refused by its name."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from trainer.args import ModelArgs, translated
from trainer.errors import RequestError
from trainer.flags import Parser

GIVEN = {"model_name_or_path": "m", "train_file_dir": "a,b", "output_dir": "o"}
#: What all of the guides' command lines have, with their values.
COMMON = {
    "do_train": "true",
    "validation_file_dir": "c,d",
    "per_device_train_batch_size": "1",
    "per_device_eval_batch_size": "1",
    "warmup_ratio": "0.05",
    "bf16": "true",
    "gradient_checkpointing": "true",
    "report_to": "tensorboard",
    "dataloader_num_workers": "4",
    "ddp_timeout": "30000",
    "logging_steps": "10",
    "logging_first_step": "true",
    "save_total_limit": "13",
    "seed": "42",
}
LORA = {
    "use_peft": "true",
    "target_modules": "all",
    "lora_rank": "8",
    "lora_alpha": "16",
    "lora_dropout": "0.05",
}
SFT = {
    "tokenizer_name_or_path": "t",
    "gradient_accumulation_steps": "8",
    "num_train_epochs": "1",
    "learning_rate": "2e-5",
    "weight_decay": "0.05",
    "model_max_length": "2048",
    "max_train_samples": "1000",
    "max_eval_samples": "10",
    "flash_attn": "true",
    "overwrite_output_dir": "false",
}
ORPO = {
    "gradient_accumulation_steps": "4",
    "max_steps": "100",
    "eval_steps": "20",
    "save_steps": "50",
    "max_train_samples": "1000",
    "max_eval_samples": "50",
    "max_source_length": "2048",
    "max_target_length": "512",
    "orpo_beta": "0.1",
}
PRETRAIN = {
    "gradient_accumulation_steps": "16",
    "num_train_epochs": "0.5",
    "learning_rate": "2e-4",
    "weight_decay": "0.01",
    "max_train_samples": "10000",
    "max_eval_samples": "10",
    "block_size": "512",
    "do_eval": "true",
    "group_by_length": "true",
    "streaming": "false",
}
#: Flag → the flag of today; those not here keep their name. None: it is so anyway.
TODAY = {
    "warmup_ratio": "warmup_steps",
    "flash_attn": "attn_implementation",
    "group_by_length": "train_sampling_strategy",
    "overwrite_output_dir": None,
    "streaming": None,
    "max_source_length": "max_prompt_length",
    "max_target_length": "model_max_length",
}
#: And the value, where that is another.
VALUES: dict[str, Any] = {
    "flash_attn": "flash_attention_2",
    "group_by_length": "group_by_length",
    "max_target_length": "2560",
}


def parser_of(objective: str) -> Parser:
    found = importlib.import_module(f"trainer.{objective}").OBJECTIVE
    return Parser((ModelArgs, found.data_args, found.lora_args, found.training_args))


def argv_of(flags: dict[str, str]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("objective", "flags"),
    [
        ("sft", {**COMMON, **LORA, **SFT}),
        ("orpo", {**COMMON, **LORA, **ORPO}),
        ("pretrain", {**COMMON, **PRETRAIN}),
    ],
)
def test_a_whole_command_line_is_understood(objective: str, flags: dict[str, str]) -> None:
    parser = parser_of(objective)
    found = vars(parser.parse_args(translated(parser, argv_of(GIVEN | flags), lambda _: None)))
    for old, value in flags.items():
        name = TODAY.get(old, old)
        if name is None or (old == "do_train" and name not in found):
            continue
        expected = parser.parse_args(argv_of(GIVEN | {name: VALUES.get(old, value)}))
        assert found[name] == vars(expected)[name], old


@pytest.mark.parametrize(
    ("objective", "defaults"),
    [
        ("sft", {**LORA, **SFT, "max_train_samples": None, "max_eval_samples": None}),
        ("orpo", LORA | {"gradient_accumulation_steps": "4", "max_steps": "100"}),
        ("orpo", {"eval_steps": "20", "save_steps": "50", "orpo_beta": "0.1"}),
        ("pretrain", {**PRETRAIN, "max_train_samples": None, "max_eval_samples": None}),
    ],
)
def test_their_defaults_are_ours(objective: str, defaults: dict[str, str | None]) -> None:
    parser = parser_of(objective)
    found = vars(parser.parse_args(argv_of(GIVEN)))
    asked = {"warmup_ratio", "do_eval", "tokenizer_name_or_path", "flash_attn", "group_by_length"}
    for name, value in defaults.items():
        if name in asked | {n for n, now in TODAY.items() if now is None}:
            continue  # something that they turned on
        given = GIVEN if value is None else GIVEN | {name: value}
        assert found[name] == vars(parser.parse_args(argv_of(given)))[name], name
    assert found["warmup_steps"] == 0.05
    assert found["bf16"] is True


@pytest.mark.parametrize(
    ("flag", "now"),
    [
        ("load_in_8bit true", "--quantize 8bit"),
        ("quantization_type 8bit", "--quantize 8bit"),
        ("load_in_4bit true", "--quantize 4bit"),
        ("qlora true", "--quantize 4bit"),
        ("template_name vicuna", "--chat_template vicuna"),
        ("dtype bfloat16", "--bf16 true"),
        ("ignore_pad_token_for_loss true", ""),
        ("train_on_inputs false", ""),
        ("ddp_find_unused_parameters false", "--ddp_find_unused_parameters false"),
        ("save_on_each_node false", "--save_on_each_node false"),
        ("ignore_data_skip true", "--ignore_data_skip true"),
    ],
)
def test_more_of_their_flags(flag: str, now: str) -> None:
    for objective in ("sft", "orpo", "pretrain"):
        argv = f"--{flag}".split()
        assert " ".join(translated(parser_of(objective), argv, lambda _: None)) == now


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("overwrite_output_dir true", "give another --output_dir"),
        ("cache_dir c", "HF_HOME"),
        ("preprocessing_num_workers 8", "tokenised once per host"),
        ("quantization_type 2bit", "--quantize 8bit or 4bit"),
        ("keep_linebreaks true", "column text"),
        ("streaming true", "tokenised once per host"),
        ("hf_hub_token x", "hf auth login"),
        ("use_fast_tokenizer false", "only fast tokenizers"),
        ("device_map auto", "ZeRO stage 3"),
        ("rope_scaling linear", "config.json"),
        ("shift_attn true", "no shifted attention"),
        ("neft_alpha 5", "--neftune_noise_alpha"),
        ("dataset_name d", "hf://datasets/OWNER/NAME"),
        ("dataset_config_name d", "hf://datasets/OWNER/NAME"),
        ("validation_split_percentage 1", "--validation_file_dir"),
        ("train_on_inputs true", "answers only"),
        ("peft_path p", "merge that adapter"),
        ("beta 0.1", "--orpo_beta"),
        ("logging_dir l", "TENSORBOARD_LOGGING_DIR"),
    ],
)
def test_what_can_not_be_had_is_named_with_what_can(flag: str, instead: str) -> None:
    for objective in ("sft", "orpo", "pretrain"):
        argv = f"--{flag}".split()
        with pytest.raises(RequestError) as error:
            translated(parser_of(objective), argv, print)
        assert str(error.value).startswith(f"--{flag}: there is no such flag here: ")
        assert instead in str(error.value)
