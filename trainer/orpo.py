r"""Preference training with ORPO (https://arxiv.org/abs/2403.07691), full or LoRA, under torchrun:

    python -m torch.distributed.run ... -m trainer.orpo --model_name_or_path MODEL \
        --train_file_dir PAIRS --output_dir OUT --deepspeed zero_configs/zero2.json

A loss of our own rather than TRL's trainer, which is experimental, cuts answers to nothing where
the prompt is long, and tokenises in every rank. The numbers are TRL's and the authors': of a pair,
the loss of the preferred conversation (prompt and answer) and beta times that of the odds ratio.
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
from torch.nn.functional import cross_entropy, logsigmoid

from trainer.args import DataArgs, SftArgs
from trainer.data import MASKED, Collator, encode
from trainer.errors import RequestError
from trainer.features import Encode, Encoded
from trainer.fit import CountingTrainer
from trainer.process import run_rank
from trainer.rows import Row
from trainer.run import Objective, train
from trainer.tally import EVAL, TRAIN

PAIR = ("chosen", "rejected")


@dataclass
class OrpoDataArgs(DataArgs):
    """Which preferences, and how long they may be."""

    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Rows whose prompt has more tokens are left out, and counted, so that every "
            "answer keeps the rest of model_max_length. Default: three quarters of that."
        },
    )


@dataclass
class OrpoArgs(SftArgs):
    """transformers' TrainingArguments with this objective's defaults."""

    orpo_beta: float = field(default=0.1, metadata={"help": "Weight of the odds ratio's loss."})
    gradient_accumulation_steps: int = 4
    max_steps: int = 100
    eval_steps: float | None = 20
    save_steps: float = 50

    def __post_init__(self) -> None:
        """As the others; RequestError for what means nothing to pairs."""
        if self.label_smoothing_factor:
            raise RequestError("--label_smoothing_factor: ORPO's loss has no labels to smooth")
        if self.train_sampling_strategy == "group_by_length":
            raise RequestError(
                "--train_sampling_strategy group_by_length: a pair has two lengths: use random"
            )
        super().__post_init__()


def prompt_limit(args: Any) -> int:
    """Tokens that a prompt may have; RequestError when that leaves no answer."""
    limit: int = args.max_prompt_length or args.model_max_length * 3 // 4
    if not 0 < limit < args.model_max_length:
        raise RequestError(
            f"--max_prompt_length {limit} leaves no room for answers within --model_max_length "
            f"{args.model_max_length}"
        )
    return limit


def make_encoder(tokenizer: Any, args: Any) -> Encode:
    """Both conversations of a pair, with labels on the last answer; answers are cut at the length.

    A pair is left out when its prompt is too long, or when nothing that differs is left of it.
    """
    limit = prompt_limit(args)

    def encode_row(row: Row) -> Encoded:
        columns: dict[str, np.ndarray] = {}
        cut, fits, learned = False, True, 0
        for name, answer in zip(PAIR, (row.chosen, row.rejected), strict=True):
            messages = [*row.messages, {"role": "assistant", "content": answer}]
            ids, labels = encode(tokenizer, messages)
            begin = _last_answer(labels)
            labels = np.where(np.arange(len(labels)) < begin, MASKED, labels).astype(np.int32)
            cut = cut or len(ids) > args.model_max_length
            ids, labels = ids[: args.model_max_length], labels[: args.model_max_length]
            fits = fits and 0 < begin <= limit and bool((labels != MASKED).any())
            learned += int((labels != MASKED).sum())
            columns[f"{name}_input_ids"], columns[f"{name}_labels"] = ids, labels
        differ = not np.array_equal(*(columns[f"{name}_input_ids"] for name in PAIR))
        return Encoded(
            columns=columns if fits and differ else None, cut=cut, learned=learned if fits else 0
        )

    return encode_row


def _last_answer(labels: np.ndarray) -> int:
    """Where the last run of labels begins: the prompt's length in tokens. 0 without any."""
    inside = np.flatnonzero(labels != MASKED)
    if not len(inside):
        return 0
    jumps = np.flatnonzero(np.diff(inside) > 1)
    return int(inside[jumps[-1] + 1] if len(jumps) else inside[0])


class PairCollator:
    """Pairs as one batch: all preferred conversations, then all others."""

    def __init__(self, pad_id: int) -> None:
        self.collator = Collator(pad_id)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """int64[2 x rows, n] input_ids, attention_mask and labels."""
        both = [
            {key: row[f"{name}_{key}"] for key in ("input_ids", "labels")}
            for name in PAIR
            for row in rows
        ]
        return self.collator(both)


def token_logps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log p of each label, float32[rows, n - 1]; 0 where there is none. Row by row, to save memory.

    ``logits``: [rows, n, vocabulary]; ``labels``: int64[rows, n], MASKED where there is none.
    """
    rows = [
        -cross_entropy(row[:-1].float(), label[1:], ignore_index=MASKED, reduction="none")
        for row, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows)


def mean_logps(logps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean log p of each row's labels, float32[rows]."""
    counted = labels[:, 1:] != MASKED
    return (logps * counted).sum(-1) / counted.sum(-1)


def log_odds_ratio(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Logarithm of odds(chosen) / odds(rejected), of mean log p: equation 4 and 7 of the paper."""
    # p = 1 has no odds: a model that is so sure counts as 1 - 1e-6.
    chosen, rejected = chosen.clamp(max=-1e-6), rejected.clamp(max=-1e-6)
    return chosen - rejected - (torch.log(-torch.expm1(chosen)) - torch.log(-torch.expm1(rejected)))


class OrpoTrainer(CountingTrainer):
    """A Trainer with ORPO's loss: the mean over pairs, whatever the batch they are in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer."""
        super().__init__(*args, **kwargs)
        # The loss is a mean over pairs, not over tokens: the Trainer divides by accumulation.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Negative log likelihood of the preferred conversations + beta x odds ratio's loss."""
        ids, mask, labels = (inputs[key] for key in ("input_ids", "attention_mask", "labels"))
        outputs = model(input_ids=ids, attention_mask=mask, use_cache=False)
        pairs = len(ids) // 2
        whole = torch.where(mask.bool(), ids, MASKED)
        logps = token_logps(outputs.logits, whole)
        nll = -mean_logps(logps[:pairs], whole[:pairs])
        chosen, rejected = mean_logps(logps, labels).split(pairs)
        log_odds = log_odds_ratio(chosen, rejected)
        loss = (nll - self.args.orpo_beta * logsigmoid(log_odds)).mean()
        self._count(
            TRAIN if model.training else EVAL,
            nll=nll,
            log_odds=log_odds,
            logp_chosen=chosen,
            logp_rejected=rejected,
            accuracy=(chosen > rejected).float(),
        )
        return (loss, {"loss": loss}) if return_outputs else loss

    def _count(self, prefix: str, **figures: torch.Tensor) -> None:
        for name, values in figures.items():
            self.tally.add(prefix, name, values.sum(), len(values))


OBJECTIVE = Objective(
    name="orpo",
    chats=True,
    encoder=make_encoder,
    key=lambda args: {"length": args.model_max_length, "prompt": prompt_limit(args)},
    arrange=lambda rows, _args, _say: rows,
    collator=lambda tokenizer, _args: PairCollator(tokenizer.pad_token_id),
    length=lambda args: (args.model_max_length, "--model_max_length"),
    trainer=OrpoTrainer,
    data_args=OrpoDataArgs,
    training_args=OrpoArgs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    train(OBJECTIVE, argv)


if __name__ == "__main__":
    run_rank(main)
