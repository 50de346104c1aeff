r"""Continued pretraining on plain text, full or LoRA, under torchrun or the deepspeed launcher:

    python -m torch.distributed.run ... -m trainer.pretrain --model_name_or_path MODEL \
        --train_file_dir TEXTS --output_dir OUT --deepspeed zero_configs/zero2.json

Documents (lines of .txt, ``text`` of the other formats) end with the tokenizer's end token and are
packed into blocks; none sees another (trainer/packing.py). Evaluation says accuracy (share of next
tokens that the model puts first) and perplexity.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # while libraries load: lean.spare_collector turns it on

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trainer.args import DataArgs, LoraArgs, SftArgs
from trainer.data import MASKED
from trainer.errors import RequestError
from trainer.features import Encode, Encoded, Say
from trainer.packing import PackedCollator, PackingTrainer, pack_blocks
from trainer.process import run_rank
from trainer.rows import Row
from trainer.run import Objective, Rows, train
from trainer.tally import EVAL


@dataclass
class PretrainDataArgs(DataArgs):
    """Which texts, and how they become blocks."""

    block_size: int = field(
        default=512,
        metadata={"help": "Tokens of a block: documents one after another, cut there."},
    )


@dataclass
class PretrainLoraArgs(LoraArgs):
    """All weights, unless ``--use_peft true``."""

    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead."})


@dataclass
class PretrainArgs(SftArgs):
    """transformers' TrainingArguments with this objective's defaults."""

    gradient_accumulation_steps: int = 16
    num_train_epochs: float = 0.5
    learning_rate: float = 2e-4
    weight_decay: float = 0.01


def make_encoder(tokenizer: Any, args: Any) -> Encode:
    """A document's tokens as the tokenizer marks them, and its end token; all are learned.

    Raises RequestError for a tokenizer that has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise RequestError("the tokenizer has no end token (eos_token): documents need one")
    if args.block_size < 8:
        raise RequestError(f"--block_size {args.block_size}: at least 8 tokens are needed")

    def encode_row(row: Row) -> Encoded:
        ids = tokenizer(row.text, verbose=False)["input_ids"]
        if ids[-1:] != [tokenizer.eos_token_id]:
            ids = [*ids, tokenizer.eos_token_id]
        array = np.array(ids, dtype=np.int32)
        return Encoded(columns={"input_ids": array, "labels": array}, learned=len(array) - 1)

    return encode_row


def arrange(rows: Rows, args: Any, say: Say) -> Rows:
    """Blocks."""
    blocks = pack_blocks(rows, args.block_size)
    say(f"packed: {len(rows)} documents in {len(blocks)} blocks of {args.block_size} tokens")
    return blocks


class PretrainTrainer(PackingTrainer):
    """Tallies accuracy in evaluation."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """As a Trainer."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if not model.training:
            labels = inputs["labels"].reshape(*outputs.logits.shape[:2])[:, 1:]
            right = (outputs.logits[:, :-1].argmax(-1) == labels) & (labels != MASKED)
            self.tally.add(EVAL, "accuracy", right.sum(), torch.sum(labels != MASKED))
        return (loss, outputs) if return_outputs else loss


OBJECTIVE = Objective(
    name="pretrain",
    chats=False,
    encoder=make_encoder,
    key=lambda _args: {},
    arrange=arrange,
    collator=lambda tokenizer, _args: PackedCollator(tokenizer.pad_token_id),
    length=lambda args: (args.block_size, "--block_size"),
    trainer=PretrainTrainer,
    data_args=PretrainDataArgs,
    lora_args=PretrainLoraArgs,
    training_args=PretrainArgs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    train(OBJECTIVE, argv)


if __name__ == "__main__":
    run_rank(main)
