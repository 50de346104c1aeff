"""Means of an objective's own figures between two log lines, over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

#: What the figures' names begin with, in training and in evaluation.
TRAIN, EVAL = "train_", "eval_"
#: Figures that objectives tally. Others in a log line are transformers' own.
FIGURES = ("accuracy", "nll", "log_odds", "logp_chosen", "logp_rejected")


class Tally:
    """Sums and counts on the device; nothing waits for it until the means are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, prefix: str, name: str, total: torch.Tensor, count: torch.Tensor | int) -> None:
        """Add ``total`` over ``count`` things to ``prefix`` + ``name``."""
        pair = torch.stack(
            [total.detach().double(), torch.as_tensor(count, device=total.device).double()]
        )
        key = prefix + name
        self._sums[key] = self._sums[key] + pair if key in self._sums else pair

    def means(self, prefix: str, accelerator: Any) -> dict[str, float]:
        """The means of ``prefix``'s figures over all ranks, which all have to ask; then forget."""
        keys = sorted(key for key in self._sums if key.startswith(prefix))
        if not keys:
            return {}
        both = accelerator.reduce(
            torch.stack([self._sums.pop(key) for key in keys]), reduction="sum"
        )
        return {key: float(total / count) for key, (total, count) in zip(keys, both, strict=True)}


def only(logs: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The figures among a log line's values, without the prefix."""
    found = {name: logs.get(prefix + name) for name in FIGURES}
    return {name: value for name, value in found.items() if value is not None}
