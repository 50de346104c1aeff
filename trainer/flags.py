"""Flags as a command line has them: help that begins with what users set, errors of one line."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from trainer.errors import RequestError

#: What --help shows first, as users come to it, with the words for those of transformers' flags
#: that have none. A flag that an objective lacks is not shown.
GROUPS: dict[str, dict[str, str]] = {
    "model, data, output": {
        "model_name_or_path": "",
        "tokenizer_name_or_path": "",
        "train_file_dir": "",
        "validation_file_dir": "",
        "output_dir": "Folder on each host for checkpoints, and on the first for the result.",
        "resume_from_checkpoint": "latest, latest-if-any, or a folder checkpoint-STEP.",
        "deepspeed": "DeepSpeed configuration, as those in zero_configs/. Default: plain data "
        "parallel, every rank holds everything.",
    },
    "LoRA": {
        "use_peft": "",
        "target_modules": "",
        "lora_rank": "",
        "lora_alpha": "",
        "lora_dropout": "",
        "quantize": "",
    },
    "learning rate, epochs, batch, length": {
        "learning_rate": "Highest learning rate.",
        "num_train_epochs": "How often each row is seen; 0.5: half of the rows, once.",
        "max_steps": "Optimizer steps, in place of epochs; -1: by epochs.",
        "warmup_steps": "Steps until the highest learning rate; below 1: share of all steps.",
        "weight_decay": "Weight decay.",
        "per_device_train_batch_size": "Rows of a rank at once.",
        "gradient_accumulation_steps": "Batches before a step: the effective batch is this times "
        "the rows of a rank times the ranks.",
        "model_max_length": "",
        "max_prompt_length": "",
        "block_size": "",
        "packing": "",
        "orpo_beta": "",
        "max_train_samples": "",
        "max_eval_samples": "",
        "bf16": "Compute in bf16; on GPUs older than Ampere: false, and --fp16 true.",
        "activation_checkpointing": "Compute activations anew in backward: less memory, about a "
        "fifth slower. On, unless false.",
        "attn_implementation": "",
    },
    "record and checkpoints": {
        "logging_steps": "Steps between lines.",
        "save_strategy": "",
        "save_steps": "Steps between checkpoints; below 1: share of all steps.",
        "save_total_limit": "Checkpoints to keep, the newest.",
        "eval_strategy": "",
        "eval_steps": "Steps between evaluations. Default: as logging_steps.",
        "report_to": "tensorboard, wandb, none, ...",
    },
}
MORE = "more of this trainer's"
REST = "all others of transformers' TrainingArguments"
USAGE = (
    "python -m torch.distributed.run ... -m %(prog)s --model_name_or_path MODEL "
    "--train_file_dir DATA --output_dir OUT [--flag VALUE ...]"
)


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """One name of each flag."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = action.metavar or "|".join(map(str, action.choices or ["VALUE"]))
        return action.option_strings[0] + ("" if action.nargs == 0 else f" {value}")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(HfArgumentParser):
    """Flags of several dataclasses, grouped, with RequestErrors in place of usage and traceback."""

    def __init__(self, kinds: Sequence[type], **more: Any) -> None:
        """``kinds``: the dataclasses; each field is a flag."""
        self._words = {name: (title, w) for title, ws in GROUPS.items() for name, w in ws.items()}
        self._groups: dict[str, Any] = {}
        super().__init__(kinds, usage=USAGE, allow_abbrev=False, formatter_class=Formatter, **more)
        order = list(self._words)
        for title in GROUPS:
            self._groups[title]._group_actions.sort(key=lambda action: order.index(action.dest))

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add a flag to its group."""
        if "-h" in names:
            added: argparse.Action = super().add_argument(*names, **options)
            for title in (*GROUPS, MORE, REST):  # in this order, whichever flag comes first
                self._groups[title] = self.add_argument_group(title)
            return added
        field = str(options.get("dest") or names[0]).lstrip("-")
        theirs = field in TrainingArguments.__dataclass_fields__
        title, words = self._words.get(field, (REST if theirs else MORE, ""))
        if words:
            options["help"] = words
        if options.get("action") == "store_false":
            options["help"] = argparse.SUPPRESS  # --no_FLAG, of every flag that is on
        if not options.get("choices") and "action" not in options:
            options["metavar"] = "VALUE"
        action: argparse.Action = self._groups[title].add_argument(*names, **options)
        return action

    def parse_flags(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """The dataclasses. RequestError for an unknown flag (with the nearest), or a bad value."""
        known = {word for action in self._actions for word in action.option_strings}
        for word in argv:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                near = difflib.get_close_matches(flag, known, 1)
                raise RequestError(
                    f"{flag}: there is no such flag" + (f"; {near[0]}?" if near else "")
                )
        try:
            made: tuple[Any, ...] = self.parse_args_into_dataclasses(
                args=list(argv), look_for_args_file=False
            )
        except RequestError:
            raise
        except ValueError as error:  # what TrainingArguments says of flags that contradict others
            raise RequestError(" ".join(str(error).split())) from error
        return made

    def error(self, message: str) -> NoReturn:
        """As argparse words it, on one line."""
        # Each flag of two words is a flag with a hyphen, too: one name is enough.
        raise RequestError(re.sub(r"(--\w+)/--[\w-]+", r"\1", message).removeprefix("argument "))
