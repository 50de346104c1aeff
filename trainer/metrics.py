"""A run's record: JSON lines in $ZEROFLEET_RUN_DIR/metrics.jsonl, written by global rank 0.

The events, in order (keys are only ever added):

    begin   what will be trained, and how: the ZeRO stage and optimizer that are really active
    step    once per logging step; ``tokens`` counts all ranks' tokens without padding, since begin
    eval    after an evaluation
    paused  at a step that was saved, because somebody asked for it; the run ends here
    saved   the folder with the trained weights
    end     first and last loss, seconds, peak memory of training: rank 0's, and ``ranks``: each's

Without ZEROFLEET_RUN_DIR nothing is written.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.room import one_line_when_full

RUN_DIR = "ZEROFLEET_RUN_DIR"


class Metrics:
    """Appends events to metrics.jsonl, or drops them when this rank keeps no record."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / "metrics.jsonl" if folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_rank(cls, rank: int) -> Metrics:
        """The record of this process, by its global rank."""
        folder = os.environ.get(RUN_DIR)
        return cls(Path(folder) if folder and rank == 0 else None)

    @property
    def kept(self) -> bool:
        """Whether this rank keeps the record."""
        return self._file is not None

    def write(self, event: str, **values: Any) -> None:
        """One line, in the file when this returns."""
        if self._file:
            line = {"event": event, **{key: _plain(value) for key, value in values.items()}}
            with one_line_when_full(self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "at": time.time()}, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: a loss that is one becomes null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_memory() -> dict[str, int | None]:
    """Bytes of this process at their highest: on its GPU (None without one) and on the host.

    ``reserved`` is what torch took from the GPU, ``device`` what its tensors filled of that.
    """
    cuda = torch.cuda.is_available()
    # Linux counts ru_maxrss in KiB (getrusage(2)).
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "peak_device_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "peak_host_bytes": host,
    }


def peak_memory_of_ranks(rank: int) -> list[dict[str, int | None]]:
    """peak_memory of every rank, in their order. Every rank has to call this."""
    mine = {"rank": rank, **peak_memory()}
    if not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
