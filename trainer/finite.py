"""Losses and weights that stopped being numbers: said where, and never saved."""

from __future__ import annotations

import math

import torch

from trainer.saving import of_all_ranks, raise_together

#: What usually helps.
REMEDY = "A lower --learning_rate, or bf16 in place of fp16, are what usually helps"


def require_finite(model: torch.nn.Module, step: int) -> None:
    """RequestError, on all ranks, when a weight that trains is no number. Every rank calls this.

    A loss is of the weights before its step, and is looked at when it is logged: without this a
    checkpoint or result of weights that broke since would be saved, and replace good ones.
    """
    bad = first_not_finite(model)
    raise_together(
        f"after step {step} the weight {bad} is no number: nothing is saved of it. {REMEDY}"
        if bad else None
    )  # fmt: skip


def first_not_finite(model: torch.nn.Module) -> str | None:
    """The name of a weight that trains and holds NaN or infinity; under ZeRO-3 of this rank's part.

    The largest absolute value is NaN where any is, and takes no memory to reckon.
    """
    for name, weight in model.named_parameters():
        part = getattr(weight, "ds_tensor", weight).detach()
        if weight.requires_grad and part.numel():
            largest = torch.linalg.vector_norm(part, ord=math.inf)
            if not bool(torch.isfinite(largest)):
                return name
    return None


class Finite:
    """Whether each batch's loss since the last log line was finite.

    Kept on the device, and asked for only when the logged loss is not.
    """

    def __init__(self) -> None:
        self._flags: list[torch.Tensor] = []

    def note(self, loss: torch.Tensor) -> None:
        """One batch's loss. Nothing waits for it."""
        self._flags.append(torch.isfinite(loss.detach()).all())

    def forget(self) -> None:
        """A log line was written."""
        self._flags.clear()

    def where(self) -> str:
        """The first bad batch of each rank that has one, in words. Every rank has to call this."""
        bad = [number for number, flag in enumerate(self._flags, 1) if not bool(flag)]
        firsts = enumerate(of_all_ranks((bad[0], len(self._flags)) if bad else None))
        found = [f"batch {one[0]} of {one[1]} on rank {rank}" for rank, one in firsts if one]
        return ", ".join(found) or "no single batch"
