"""What a run can be asked for: the flags that all objectives share (trainer.sft, orpo, pretrain).

Every flag of transformers' TrainingArguments is one too; only defaults differ here.
recipes/sft.yaml lists the flags that a run usually sets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from trainer.card import parse_given
from trainer.errors import RequestError
from trainer.flags import Parser
from trainer.old_names import translate


@dataclass
class ModelArgs:
    """Which model, and how it is loaded."""

    model_name_or_path: str = field(metadata={"help": "Folder of the base model (or a hub id)."})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder of the tokenizer; default: the model's own."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit, when the model is a hub id."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code that comes with the model. Off: its code is not yours."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "eager, sdpa, flex_attention, flash_attention_2 or flash_attention_3. Default: "
            "the model's own choice. One that can't be had here is an error, never replaced."
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "chatml, llama3, mistral, gemma, vicuna, or a Jinja file, in place of the "
            "tokenizer's chat template."
        },
    )


@dataclass
class DataArgs:
    """Which rows, and how much of them."""

    train_file_dir: str = field(
        metadata={
            "help": "File of rows (.jsonl .json .csv .parquet .arrow; pretrain: .txt), folder of "
            "them, or hf://datasets/OWNER/NAME that this host has cached; several: with commas."
        }
    )
    validation_file_dir: str | None = field(
        default=None, metadata={"help": "The same, to evaluate on. Default: no evaluation."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many rows. Default: all."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on only the first so many rows. Default: all."}
    )
    model_max_length: int = field(
        default=2048, metadata={"help": "Tokens of a row; what is beyond is cut, and counted."}
    )
    skip_bad_rows: bool = field(
        default=False,
        metadata={"help": "Leave out rows that can't be used, and count them. Off: an error."},
    )
    token_cache: str | None = field(
        default=None,
        metadata={"help": "Folder that tokens are kept in, on each host. Default: ~/.cache/..."},
    )


@dataclass
class LoraArgs:
    """LoRA, or full fine-tuning when ``--use_peft false``."""

    use_peft: bool = field(
        default=True, metadata={"help": "Train a LoRA adapter; false: train every weight."}
    )
    target_modules: str = field(
        default="all",
        metadata={
            "help": "all (every linear layer except the output layer), or names, with commas."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter is scaled by alpha / rank."})
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "8bit or 4bit (QLoRA): keep the frozen weights in so many bits. Needs the "
            "package bitsandbytes on every host; not with ZeRO-3."
        },
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the adapter."})
    modules_to_save: str | None = field(
        default=None,
        metadata={"help": "Modules trained whole beside the adapter, separated by commas."},
    )


@dataclass
class SftArgs(TrainingArguments):
    """transformers' TrainingArguments with this trainer's defaults."""

    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    num_train_epochs: float = 1.0
    learning_rate: float = 2e-5
    # Below 1 it is a share of all steps (transformers 5 has no warmup_ratio any more).
    warmup_steps: float = 0.05
    weight_decay: float = 0.05
    bf16: bool = True
    # One line a step, so that a run which stands still shows within a step.
    logging_steps: float = 1
    logging_first_step: bool = True
    # A NaN loss must be seen; transformers would show the last good one instead.
    logging_nan_inf_filter: bool = False
    # Progress bars make log files unreadable.
    disable_tqdm: bool | None = True
    save_total_limit: int | None = 2
    # Our collators make the columns that models know out of others.
    remove_unused_columns: bool | None = False

    def __post_init__(self) -> None:
        """Turn activation checkpointing on, unless either of its names was set."""
        if self.fsdp:
            raise RequestError("--fsdp: there is no FSDP here: split the model with --deepspeed")
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = True
        if not torch.accelerator.is_available():
            self._start_on_cpu()
        elif self.bf16 and not self.use_cpu:
            require_bf16()
        super().__post_init__()

    def _start_on_cpu(self) -> None:
        """A host without a GPU: transformers then wants use_cpu for bf16, but forgets ddp_timeout.

        A process group that exists already is kept, so it is made here, with that timeout. (Seen in
        transformers 5.23, TrainingArguments._setup_devices: only the other branches pass it on.)
        With DeepSpeed it has to be made by DeepSpeed, or ZeRO-3 loads for a world of one.
        """
        self.use_cpu = True
        if "LOCAL_RANK" not in os.environ or dist.is_initialized():
            return
        timeout = timedelta(seconds=self.ddp_timeout)
        if self.deepspeed:
            import deepspeed

            # As DeepSpeed's own launcher has it. Without it, how many ranks there are is asked of
            # numactl: a process for each reduced gradient (DeepSpeed 0.19, cpu_accelerator.py).
            os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
            deepspeed.init_distributed("gloo", auto_mpi_discovery=False, timeout=timeout)
            release_shared_memory()
        else:
            dist.init_process_group("gloo", timeout=timeout)


def release_shared_memory() -> None:
    """Take the names from the memory that DeepSpeed shares among ranks, once all have it mapped.

    For its reductions on one host without GPUs (op shm_comm), it makes a file of 69 MB a rank in
    /dev/shm, and removes none. Without a name, it goes with its processes, however those end.
    Source: shm_initialize in
    https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/csrc/cpu/comm/shm.cpp
    """
    dist.barrier()
    parts = [os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT")]
    name = "_".join(["deepspeed_allreduce_buffer", str(os.getuid()), *parts])
    shared = Path("/dev/shm")  # noqa: S108 - where shm_open has them
    (shared / f"{name}_{dist.get_rank()}").unlink(missing_ok=True)


def require_bf16() -> None:
    """RequestError on a GPU that computes bf16 by emulation alone, or not at all."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RequestError(
            f"--bf16 true: {torch.cuda.get_device_name()} has no bf16 (Ampere and later do): "
            "use --bf16 false --fp16 true"
        )


def parse_args(
    argv: Sequence[str] | None = None,
    data_args: type[DataArgs] = DataArgs,
    lora_args: type[LoraArgs] = LoraArgs,
    training_args: type[SftArgs] = SftArgs,
) -> tuple[ModelArgs, DataArgs, LoraArgs, SftArgs]:
    """The flags of a run, of the objective's own kinds.

    Making the SftArgs starts the process group and, with ``--deepspeed``, registers the DeepSpeed
    configuration. It must therefore come before ``from_pretrained``: only then does ZeRO-3 split
    the model while it loads (https://huggingface.co/docs/transformers/deepspeed#zero-3).
    """
    parser = Parser((ModelArgs, data_args, lora_args, training_args))
    given = translated(parser, sys.argv[1:] if argv is None else argv, _note)
    model, data, lora, training = parser.parse_flags(given)
    training.given = given
    _require_possible(data, lora, training)
    flags = parse_given(given)
    if "num_train_epochs" in flags and "max_steps" not in flags:
        training.max_steps = -1  # an objective's own number of steps would go before the epochs
    return model, data, lora, training


def _require_possible(data: DataArgs, lora: LoraArgs, training: SftArgs) -> None:
    """RequestError for flags that would be left out without a word, or end in a traceback later."""
    for flag, value, least in (
        ("model_max_length", data.model_max_length, 8),
        ("max_train_samples", data.max_train_samples, 1),
        ("max_eval_samples", data.max_eval_samples, 1),
        ("lora_rank", lora.lora_rank, 1),
    ):
        if value is not None and value < least:
            raise RequestError(f"--{flag} {value}: at least {least} is needed")
    if training.output_dir is None:
        raise RequestError("--output_dir is missing: where the trained weights are to go")
    if training.eval_strategy != "no" and data.validation_file_dir is None:
        raise RequestError(
            f"--eval_strategy {training.eval_strategy.value}: there is nothing to evaluate on: "
            "give --validation_file_dir"
        )


def translated(parser: Parser, argv: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """``argv`` in the names that ``parser`` has; see trainer.old_names."""
    words = (word for action in parser._actions for word in action.option_strings)
    known = frozenset(word.removeprefix("--").replace("-", "_") for word in words)
    return translate(argv, known, say)


def _note(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"trainer: {line}", file=sys.stderr, flush=True)
