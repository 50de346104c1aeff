"""Logits only where something is learned from them.

With the loss on answers only, most of a conversation's tokens have no label, and yet a model makes
a logit of every vocabulary entry for each of them: with 150,000 entries the largest tensors of a
step. transformers' models take the positions that are wanted, and the labels that belong to them
(https://huggingface.co/docs/transformers/main_classes/trainer: a collator may give shift_labels).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from trainer.data import MASKED

Batch = dict[str, Any]


def takes_positions(network: Any) -> bool:
    """Whether the model makes logits of chosen positions, and takes the labels that belong to them.

    Those of transformers that don't make all of them, as ever.
    """
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    forward = inspect.unwrap(base.forward)
    known = inspect.signature(forward).parameters
    passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    # Some decoders of older models reckon a loss of their own, of as many labels as tokens.
    shared = "loss_function" in forward.__code__.co_names and passes_on
    wanted = "logits_to_keep" in known and shared
    return wanted and getattr(base, "loss_function", None) is ForCausalLMLoss


def labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[k] positions whose next token has a label in any row; int64[rows, k]: these labels.

    ``labels``: int64[rows, n], MASKED where nothing is learned.
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=MASKED)
    positions = (following != MASKED).any(dim=0).nonzero()[:, 0]
    return positions, following[:, positions]


class AnswersOnly:
    """A collator's batches, with what their logits are wanted for.

    In the collator, before anything is on a GPU: how many there are has to be waited for there.
    """

    def __init__(self, collator: Callable[[list[Any]], Batch]) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> Batch:
        """As the collator's, with int64[k] logits_to_keep and int64[rows, k] shift_labels."""
        batch = self.collator(rows)
        positions, labels = labelled(batch["labels"])
        return {**batch, "logits_to_keep": positions, "shift_labels": labels}
