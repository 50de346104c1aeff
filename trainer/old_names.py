"""Flags that older trainers had: translated with a notice, or refused with what to use instead.

A flag that is dropped without a word changes a training without a word. Sources: transformers 4's
TrainingArguments (https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md), and
the command lines of trainers in the manner of MedicalGPT and LLaMA-Factory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.errors import RequestError

#: Same meaning under another name.
RENAMED = {
    "warmup_ratio": "warmup_steps",  # transformers 5: below 1, warmup_steps is a share
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "tokenizer_path": "tokenizer_name_or_path",
    "max_samples": "max_train_samples",
    "cutoff_len": "model_max_length",
    "lora_r": "lora_rank",
    "lora_target": "target_modules",
    "additional_target": "modules_to_save",
    "template_name": "chat_template",
    "template": "chat_template",
}
#: One value of an old flag → the new one and its value; any other value of it is refused.
VALUES = {
    ("flash_attn", "true"): ("attn_implementation", "flash_attention_2"),
    ("flash_attn", "fa2"): ("attn_implementation", "flash_attention_2"),
    ("flash_attn", "sdpa"): ("attn_implementation", "sdpa"),
    ("flash_attn", "disabled"): ("attn_implementation", "eager"),
    ("dtype", "bfloat16"): ("bf16", "true"),
    ("torch_dtype", "bfloat16"): ("bf16", "true"),
    ("finetuning_type", "lora"): ("use_peft", "true"),
    ("finetuning_type", "full"): ("use_peft", "false"),
    ("load_in_8bit", "true"): ("quantize", "8bit"),
    ("load_in_4bit", "true"): ("quantize", "4bit"),
    ("quantization_type", "8bit"): ("quantize", "8bit"),
    ("quantization_type", "4bit"): ("quantize", "4bit"),
    ("quantization_bit", "8"): ("quantize", "8bit"),
    ("quantization_bit", "4"): ("quantize", "4bit"),
    ("qlora", "true"): ("quantize", "4bit"),
    ("group_by_length", "true"): ("train_sampling_strategy", "group_by_length"),
}
#: Values that ask for what is so anyway.
GIVEN = {
    ("flash_attn", "false"), ("flash_attn", "auto"), ("group_by_length", "false"),
    ("overwrite_output_dir", "false"), ("overwrite_cache", "false"), ("shift_attn", "false"),
    ("train_on_inputs", "false"), ("ignore_pad_token_for_loss", "true"), ("neft_alpha", "0"),
    ("use_fast_tokenizer", "true"), ("save_safetensors", "true"), ("streaming", "false"),
    ("load_in_8bit", "false"), ("load_in_4bit", "false"), ("qlora", "false"),
    ("do_train", "true"), ("ddp_find_unused_parameters", "false"), ("rope_scaling", "none"),
}  # fmt: skip
#: What can't be had under any name here, and what to do.
GONE = {
    "overwrite_output_dir": "it never deleted anything: give another --output_dir, or remove it",
    "overwrite_cache": "the cache of tokens is named by what is in it, so it is never stale",
    "flash_attn": "use --attn_implementation flash_attention_2, sdpa or eager",
    "shift_attn": "there is no shifted attention here",
    "rope_scaling": "set it in the model's config.json, which the result then carries, too",
    "neft_alpha": "use --neftune_noise_alpha",
    "device_map": "each rank has one device; to split a model use ZeRO stage 3",
    "dtype": "use --bf16 or --fp16",
    "torch_dtype": "use --bf16 or --fp16",
    "train_on_inputs": "the loss is on answers only",
    "ignore_pad_token_for_loss": "padding is never learned",
    "use_fast_tokenizer": "only fast tokenizers tell where an answer's tokens begin",
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the hosts' environment",
    "group_by_length": "use --train_sampling_strategy group_by_length",
    "streaming": "rows are tokenised once per host and kept on its disk",
    "dataset_name": "name cached hub data in --data, as hf://datasets/OWNER/NAME",
    "peft_path": "merge that adapter first, and train the merged model",
    "hf_hub_token": "log in on the hosts: hf auth login",
    "quantization_bit": "use --quantize 8bit or 4bit",
    "quantization_type": "use --quantize 8bit or 4bit",
    "cache_dir": "set HF_HOME in the hosts' environment; --token_cache is the tokens' folder",
    "preprocessing_num_workers": "rows are tokenised once per host, and kept: leave it out",
    "keep_linebreaks": "a line of a .txt is a document; for longer ones: .jsonl, column text",
    "dataset_config_name": "name cached hub data in --data, as hf://datasets/OWNER/NAME",
    "validation_split_percentage": "put those rows in a file of their own: --validation_file_dir",
    "beta": "use --orpo_beta",
    "load_in_8bit": "use --quantize 8bit",
    "load_in_4bit": "use --quantize 4bit",
    "qlora": "use --quantize 4bit",
    "finetuning_type": "use --use_peft true or false",
    "stage": "choose the objective: sft, orpo or pretrain",
}


def translate(argv: Sequence[str], known: frozenset[str], say: Callable[[str], None]) -> list[str]:
    """``argv`` with today's names; each change is said. Pure but for ``say``.

    ``known``: the flags that there are; one of these is never touched. Raises RequestError for an
    old flag that means nothing here.
    """
    result: list[str] = []
    for words in _with_one_length(_split(argv), known, say):
        name, equals, value = words[0].removeprefix("--").partition("=")
        values = [value, *words[1:]] if equals else words[1:]
        old = name.replace("-", "_") if words[0].startswith("--") else ""
        new = None if not old or old in known else _new(old, values)
        if new is not None:
            said = " ".join(new) or "nothing, it is so anyway"
            say(f"note: {' '.join(words)} is an older name of: {said}")
        result += words if new is None else new
    return result


def _with_one_length(
    groups: list[list[str]], known: frozenset[str], say: Callable[[str], None]
) -> list[list[str]]:
    """max_source_length and max_target_length as the one length of both.

    With a limit on prompts (ORPO) the source's length is that. RequestError for one without the
    other: what the whole may be is then not said.
    """
    names = ("max_source_length", "max_target_length")
    given = {_name(words): words for words in groups if _name(words) in names}
    if not given or set(given) & known:
        return groups
    try:
        source, target = (int(_values(given[name])[0]) for name in names)
    except (KeyError, IndexError, ValueError):
        raise RequestError(
            "--max_source_length and --max_target_length: give both, as numbers, or use "
            "--model_max_length: the tokens of question and answer together"
        ) from None
    new = [["--model_max_length", str(source + target)]]
    if "max_prompt_length" in known:
        new.append(["--max_prompt_length", str(source)])
    old = " ".join(word for words in given.values() for word in words)
    say(f"note: {old} are older names of: {' '.join(word for words in new for word in words)}")
    return [*(words for words in groups if _name(words) not in names), *new]


def _name(words: list[str]) -> str:
    return words[0].removeprefix("--").partition("=")[0].replace("-", "_")


def _values(words: list[str]) -> list[str]:
    _, equals, value = words[0].partition("=")
    return [value, *words[1:]] if equals else words[1:]


def _new(name: str, values: list[str]) -> list[str] | None:
    """The flag of today; [] when it asks for what is so anyway; None when it isn't an old one."""
    if name in RENAMED:
        return [f"--{RENAMED[name]}", *values]
    value = (values or ["true"])[0].lower()
    if (name, value) in VALUES:
        flag, now = VALUES[name, value]
        return [f"--{flag}", now]
    if (name, value) in GIVEN:
        return []
    if name in GONE:
        raise RequestError(f"--{name} {' '.join(values)}: there is no such flag here: {GONE[name]}")
    return None


def _split(argv: Sequence[str]) -> list[list[str]]:
    """The words of each flag together, in order."""
    groups: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups
