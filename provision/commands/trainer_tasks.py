"""The commands about what goes into a run and what came out: check-data, merge, export, chat."""

from __future__ import annotations

from typing import Any

from provision.commands.flags import FLEET, command

#: Who runs it, where not a host of the hosts file.
_WHERE = (*FLEET, "python")


@command("rows", *_WHERE, "model", "recipe", "set", "dry_run")
def check_data(out: Any, s: Any) -> None:
    """Show what a run would make of data: formats, lengths, samples, every bad row."""
    from provision.commands.checking import apply_check

    apply_check(out, s)


@command("result", *_WHERE, "runs", "output", "dry_run")
def merge(out: Any, s: Any) -> None:
    """Merge a run's adapter into its base model, checked by equal logits, and bring it here."""
    from provision.commands.asking import apply_made, result_call

    apply_made(out, s, result_call)


@command("checkpoint", *_WHERE, "runs", "output", "dtype", "universal", "dry_run")
def export(out: Any, s: Any) -> None:
    """Put a checkpoint's ZeRO shards together: as safetensors, or for another number of ranks."""
    from provision.commands.asking import apply_made, checkpoint_call

    apply_made(out, s, checkpoint_call)


@command("result", *_WHERE, "runs", "prompt", "max_new_tokens", "dry_run")
def chat(out: Any, s: Any) -> None:
    """Talk to the result of a run, or with --prompt ask it one thing."""
    from provision.commands.chatting import apply_chat

    apply_chat(out, s)


#: What tasks.py adds to its own.
TASKS = (check_data, merge, export, chat)
