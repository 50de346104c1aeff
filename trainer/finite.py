"""Which batch's loss stopped being a number: kept on the device, asked for only when one did."""

from __future__ import annotations

import torch

from trainer.saving import of_all_ranks


class Finite:
    """Whether each batch's loss since the last log line was finite."""

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
