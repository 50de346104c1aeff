"""trainer/old_names.py: an old flag is translated or refused, never dropped without a word."""

from __future__ import annotations

import pytest

from trainer.errors import RequestError
from trainer.old_names import GIVEN, GONE, RENAMED, VALUES, translate

KNOWN = frozenset({"learning_rate", "warmup_steps", "bf16", "use_cpu"})


def translated(*argv: str) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return translate(argv, KNOWN, said.append), said


def test_what_is_of_today_passes_as_it_is() -> None:
    argv = ["--learning_rate=-1", "--bf16", "--weight-decay", "0.1", "--target_modules", "a", "b"]
    assert translated(*argv) == (argv, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--warmup_ratio", "0.05"], ["--warmup_steps", "0.05"]),
        (["--warmup-ratio=0.05"], ["--warmup_steps", "0.05"]),
        (["--flash_attn"], ["--attn_implementation", "flash_attention_2"]),
        (["--flash_attn", "False"], []),
        (["--lora_r", "4"], ["--lora_rank", "4"]),
        (["--template_name", "qwen"], ["--chat_template", "qwen"]),
        (["--load_in_4bit", "True"], ["--quantize", "4bit"]),
        (["--load_in_8bit", "false"], []),
        (["--quantization_bit", "8"], ["--quantize", "8bit"]),
        (["--finetuning_type", "full"], ["--use_peft", "false"]),
        (["--overwrite_output_dir", "false"], []),
    ],
)
def test_old_flags_are_translated_and_said(old: list[str], new: list[str]) -> None:
    argv, said = translated("--bf16", "true", *old, "--use_cpu")
    assert argv == ["--bf16", "true", *new, "--use_cpu"]
    assert len(said) == 1
    assert said[0].startswith(f"note: {' '.join(old)} is an older name of: ")


@pytest.mark.parametrize(
    "argv",
    [
        ["--overwrite_output_dir"],
        ["--overwrite_output_dir", "true"],
        ["--quantization_bit", "3"],
        ["--flash_attn", "whatever"],
        ["--train_on_inputs", "true"],
        ["--dtype", "float16"],
    ],
)
def test_what_can_not_be_had_is_refused(argv: list[str]) -> None:
    with pytest.raises(RequestError, match="there is no such flag here: "):
        translated(*argv)


def test_every_value_that_is_translated_has_an_answer_for_the_others() -> None:
    assert {name for name, _ in (*VALUES, *GIVEN)} - {"do_train", "ddp_find_unused_parameters"} <= {
        *GONE
    }
    assert not set(RENAMED) & set(GONE)


def test_two_old_lengths_are_one_of_today() -> None:
    old = ["--max_source_length", "512", "--max_target_length=256"]
    argv, said = translated("--bf16", *old)
    assert argv == ["--bf16", "--model_max_length", "768"]
    assert said == [f"note: {' '.join(old)} are older names of: --model_max_length 768"]
    orpo = KNOWN | {"max_prompt_length"}
    assert translate(old, orpo, print) == [
        "--model_max_length",
        "768",
        "--max_prompt_length",
        "512",
    ]
    with pytest.raises(RequestError, match="give both, as numbers"):
        translated("--max_source_length", "512")


def test_a_flag_that_exists_is_never_translated() -> None:
    said: list[str] = []
    argv = ["--dtype", "bfloat16"]
    assert translate(argv, frozenset({"dtype"}), said.append) == argv
    assert not said
