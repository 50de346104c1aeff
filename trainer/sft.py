r"""Supervised fine-tuning, full or LoRA, under torchrun:

    python -m torch.distributed.run ... -m trainer.sft --model_name_or_path MODEL \
        --train_file_dir DATA --output_dir OUT --deepspeed zero_configs/zero2.json

Flags: trainer/args.py, those below, and every one of transformers' TrainingArguments.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # while libraries load: lean.spare_collector turns it on

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.answers import AnswersOnly, takes_positions
from trainer.args import DataArgs
from trainer.data import MASKED, Collator, encode, teaches_to_stop
from trainer.features import Encode, Encoded, Say
from trainer.packing import PackedCollator, PackingTrainer, pack_whole
from trainer.process import run_rank
from trainer.rows import Row
from trainer.run import Objective, Rows, train


@dataclass
class SftDataArgs(DataArgs):
    """Which conversations, and how they become rows."""

    packing: bool = field(
        default=False,
        metadata={"help": "Several conversations in a row of model_max_length, kept apart."},
    )


def make_encoder(tokenizer: Any, args: DataArgs) -> Encode:
    """A conversation's tokens, with labels on its answers; cut at model_max_length."""

    def encode_row(row: Row) -> Encoded:
        ids, labels = encode(tokenizer, row.messages)
        cut = len(ids) > args.model_max_length
        ids, labels = ids[: args.model_max_length], labels[: args.model_max_length]
        # The first token has nothing before it to be predicted from.
        learned = int((labels[1:] != MASKED).sum())
        columns = {"input_ids": ids, "labels": labels} if learned else None
        return Encoded(columns=columns, cut=cut, learned=learned)

    return encode_row


def arrange(rows: Rows, args: Any, say: Say) -> Rows:
    """The rows, or fewer packed ones."""
    if not args.packing:
        return rows
    packed = pack_whole(rows, args.model_max_length)
    say(f"packed: {len(rows)} rows in {len(packed)} of at most {args.model_max_length} tokens")
    return packed


def collator(tokenizer: Any, args: Any) -> Any:
    """Pads a batch."""
    return (PackedCollator if args.packing else Collator)(tokenizer.pad_token_id)


class SftTrainer(PackingTrainer):
    """A Trainer whose model makes no logits of prompts, where it can; packed rows have them all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer."""
        super().__init__(*args, **kwargs)
        # Label smoothing is reckoned outside the model, of the logits of all tokens.
        smooths = self.args.label_smoothing_factor > 0
        whole = smooths or not takes_positions(self.model)
        if isinstance(self.data_collator, Collator) and not whole:
            self.data_collator = AnswersOnly(self.data_collator)


OBJECTIVE = Objective(
    name="sft",
    chats=True,
    encoder=make_encoder,
    key=lambda args: {"length": args.model_max_length},
    arrange=arrange,
    collator=collator,
    length=lambda args: (args.model_max_length, "--model_max_length"),
    remark=lambda tokenizer: (
        None
        if teaches_to_stop(tokenizer)
        else "note: the chat template ends answers with no special token; their end is not learned"
    ),
    trainer=SftTrainer,
    data_args=SftDataArgs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    train(OBJECTIVE, argv)


if __name__ == "__main__":
    run_rank(main)
