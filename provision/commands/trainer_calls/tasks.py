"""The commands about what goes into a run and what came out: check-data, merge, export, chat."""

from __future__ import annotations

from typing import Any

from provision.commands.flags import FLEET, command

#: Who runs it, where not a host of the hosts file.
_WHERE = (*FLEET, "python")


@command(
    "rows", *_WHERE, "model", "recipe", "set", "dry_run",
    helps={"model": "model folder, or the name of a cached hub model, for its tokenizer"},
)  # fmt: skip
def check_data(out: Any, s: Any) -> None:
    """Show what a run would make of data: formats, lengths, samples, every bad row.

    Example: invoke check-data '~/data/chat.jsonl' --model '~/models/qwen3'
    """
    from provision.commands.trainer_calls.check_data import apply_check

    apply_check(out, s)


@command(
    "result", *_WHERE, "runs", "output", "dry_run",
    helps={"output": "new folder of this machine for the model (default: RUN/merged in runs)"},
)  # fmt: skip
def merge(out: Any, s: Any) -> None:
    """Merge a run's adapter into its base model, check that the logits agree, and copy it here.

    Example: invoke merge last --output ./merged
    """
    from provision.commands.trainer_calls.call import apply_made
    from provision.commands.trainer_calls.merge import gather_merge_call

    apply_made(out, s, gather_merge_call)


@command(
    "checkpoint", *_WHERE, "runs", "output", "dtype", "universal", "dry_run",
    helps={"output": "new folder of this machine (default: RUN/exported-STEP in runs)"},
)  # fmt: skip
def export(out: Any, s: Any) -> None:
    """Combine a checkpoint's ZeRO shards: into safetensors, or for another number of ranks.

    Example: invoke export last/checkpoint-100 --dtype bf16
    """
    from provision.commands.trainer_calls.call import apply_made
    from provision.commands.trainer_calls.export import gather_export_call

    apply_made(out, s, gather_export_call)


@command("result", *_WHERE, "runs", "prompt", "max_new_tokens", "dry_run")
def chat(out: Any, s: Any) -> None:
    """Chat with the model that a run trained; with --prompt, ask it one thing.

    Example: invoke chat last
    """
    from provision.commands.trainer_calls.chat import apply_chat

    apply_chat(out, s)


#: What tasks.py adds to its own.
TASKS = (check_data, merge, export, chat)
